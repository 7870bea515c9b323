import type { Socket } from 'node:net';
import { loadFfi, openLibrary } from '../probe/libbpf.js';

interface SocketOptions {
  setsockopt(fd: number, level: number, name: number, value: Buffer, size: number): number;
}

const SOL_SOCKET = 1;
/** include/uapi/asm-generic/socket.h */
const SO_TXREHASH = 74;

/**
 * Gives a function that lets a socket take another hash, and so another outer port, from its next
 * retransmission timeout on, whatever net.core.txrehash says (sk_rethink_txhash, include/net/sock.h).
 * It throws when the kernel has no SO_TXREHASH. What takes its time, the libraries, is loaded before.
 * Throws `library-missing`.
 */
export function txrehashSwitch(): (socket: Socket) => void {
  const libc = openLibrary<SocketOptions>(
    loadFfi().ffi,
    'libc.so.6',
    { setsockopt: ['int', ['int', 'int', 'int', 'pointer', 'uint']] },
    'libc6',
  );
  const on = Buffer.from([1, 0, 0, 0]);
  return (socket) => {
    const { fd } = (socket as unknown as { _handle: { fd: number } })._handle;
    if (libc.setsockopt(fd, SOL_SOCKET, SO_TXREHASH, on, on.length) !== 0)
      throw new Error('this kernel has no SO_TXREHASH');
  };
}
