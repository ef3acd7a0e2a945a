import { expect, test } from "bun:test";
import { Webhook } from "standardwebhooks";
import { makeSigningSecret, signedHeaders } from "../../../src/webhooks/signature.ts";

const now = () => Math.floor(Date.now() / 1000);
const body = '{"data":{"path":"workspace/ä.txt"},"id":"evt-abc"}';
const signable = (timestamp = now()) => ({ eventId: "evt-abc", type: "file.written", body, timestamp });

test("the example that is known to be right", () => {
  // By Python's hmac and hashlib, with this secret.
  const headers = signedHeaders({ ...signable(1_800_000_000), body: "{}" }, [
    "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
  ]);
  expect(headers["x-trove-signature"]).toBe(
    "t=1800000000,v1=ab4d74bc609ddb70bf0484dd51e1074fc108c4a4b3b6b3f025b7870d5f59e6cb",
  );
  expect(headers["webhook-signature"]).toBe("v1,e1rUlkGxtjD+VA5mbx1LA9KWgDrFIJHlShpfUsufWDc=");
});

test("Standard Webhooks' own verifier takes it, and nothing that was changed or is old", () => {
  const secret = makeSigningSecret();
  const verifier = new Webhook(secret);
  const headers = signedHeaders(signable(), [secret]);
  expect(verifier.verify(body, headers)).toEqual(JSON.parse(body));
  expect(() => verifier.verify(body.replace("ä", "b"), headers)).toThrow();
  expect(() => verifier.verify(body, { ...headers, "webhook-id": "evt-other" })).toThrow();
  expect(() => new Webhook(makeSigningSecret()).verify(body, headers)).toThrow();
  expect(() => verifier.verify(body, signedHeaders(signable(now() - 600), [secret]))).toThrow();
});

test("after a rotation either secret verifies, and a third does not", () => {
  const [one, two, three] = [makeSigningSecret(), makeSigningSecret(), makeSigningSecret()];
  const headers = signedHeaders(signable(), [one, two]);
  for (const secret of [one, two]) expect(new Webhook(secret).verify(body, headers)).toBeTruthy();
  expect(() => new Webhook(three).verify(body, headers)).toThrow();
  expect(headers["x-trove-signature"]).toMatch(/^t=\d+,v1=[0-9a-f]{64},v1=[0-9a-f]{64}$/);
});
