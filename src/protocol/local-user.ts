/**
 * Who runs an admin command, as the command itself says it: the admin socket's permissions prove that it is root or of
 * the group, and Bun tells a server nothing more about the other end of a unix socket.
 */
export const LOCAL_USER_HEADER = "x-cofferdam-user";
