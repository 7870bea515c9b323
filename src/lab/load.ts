/**
 * A lab's load program, started inside a namespace. `node load.js connect ADDRESS PORT COUNT` makes
 * so many short connections, some at a time; `node load.js stream ADDRESS PORT` saturates one. Says
 * `made` when it has no more to begin, writes a `Load` as JSON when its standard input has ended.
 */
import { connect, type Socket } from 'node:net';

export interface Load {
  made: number;
  failed: number;
  /** bytes that the kernel has taken for the saturated connection */
  streamed: number;
}

const AT_ONCE = 32;
const CHUNK = Buffer.alloc(1 << 16);

/**
 * One connection, which the server resets: no TIME_WAIT keeps its port, so that there may be any
 * number, and none waits to be accepted when the next one comes.
 */
function short(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    let made = false;
    const socket = connect({ host, port });
    socket.once('connect', () => (made = true));
    // it may be reset before we hear that it stood
    socket.once('error', ({ code }: NodeJS.ErrnoException) => (made ||= code === 'ECONNRESET'));
    socket.once('close', () => resolve(made));
  });
}

function saturate(host: string, port: number): Socket {
  const socket = connect({ host, port });
  const fill = () => {
    while (socket.write(CHUNK));
  };
  socket.on('connect', fill).on('drain', fill);
  return socket.on('error', () => socket.destroy());
}

const [kind, host = '', port, count] = process.argv.slice(2);
const stream = kind === 'stream' ? saturate(host, Number(port)) : null;
const load: Load = { made: 0, failed: 0, streamed: 0 };
process.stdin.resume().once('end', () => {
  load.streamed = stream ? stream.bytesWritten - stream.writableLength : 0;
  process.stdout.write(`${JSON.stringify(load)}\n`, () => process.exit(0));
});
let left = kind === 'connect' ? Number(count) : 0;
await Promise.all(
  Array.from({ length: AT_ONCE }, async () => {
    while (left-- > 0) {
      if (await short(host, Number(port))) load.made++;
      else load.failed++;
    }
  }),
);
process.stdout.write('made\n');
