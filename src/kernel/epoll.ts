import { KernelError, NR, syscall } from "./libc.ts";
import { closeFd } from "./openat2.ts";

const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLLIN = 1;
/** struct epoll_event of x86-64 is packed: the events, 4 bytes, and what is to be told, 8. */
const EVENT_BYTES = 12;
/** More are told of by the next look. */
const MOST = 128;

/** Which of many pipes have something to be read, by one call that neither waits nor takes anything out of them. */
export function createEpoll() {
  const epoll = syscall("epoll_create1", NR.epoll_create1, EPOLL_CLOEXEC);
  const one = new DataView(new ArrayBuffer(EVENT_BYTES));
  const found = new DataView(new ArrayBuffer(MOST * EVENT_BYTES));

  return {
    add(fd: number): void {
      one.setUint32(0, EPOLLIN, true);
      one.setInt32(4, fd, true);
      syscall("epoll_ctl", NR.epoll_ctl, epoll, EPOLL_CTL_ADD, fd, one);
    },

    /** Before it is closed. */
    remove(fd: number): void {
      syscall("epoll_ctl", NR.epoll_ctl, epoll, EPOLL_CTL_DEL, fd, one);
    },

    /** The kernel takes them in turn when there are more than one call tells of. */
    readable(): number[] {
      let count: number;
      try {
        count = syscall("epoll_wait", NR.epoll_wait, epoll, found, MOST, 0);
      } catch (error) {
        if (error instanceof KernelError && error.code === "EINTR") return [];
        throw error;
      }
      return Array.from({ length: count }, (_, index) => found.getInt32(index * EVENT_BYTES + 4, true));
    },

    close: () => closeFd(epoll),
  };
}
