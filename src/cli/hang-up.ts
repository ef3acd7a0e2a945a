/**
 * From now on SIGHUP does not end the process. Returns what takes it from then on: one that came meanwhile is heard
 * there too.
 */
export function catchHangUps(): (then: () => void) => void {
  let heard = false;
  let act = () => {
    heard = true;
  };
  process.on("SIGHUP", () => act());
  return (then) => {
    act = then;
    if (heard) then();
  };
}
