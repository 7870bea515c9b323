/**
 * A lab's load program, started inside a namespace: `node load.js ADDRESS PORT CONNECTIONS STREAM-PORT`.
 * Makes so many short connections to PORT, some at a time, and says `made`; meanwhile, and until its
 * standard input ends, it saturates one connection to STREAM-PORT (0: none). Then writes a `Load` as JSON.
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

/** One connection, reset at once: no TIME_WAIT keeps its port, so that there may be any number. */
function short(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port });
    socket.once('connect', () => {
      socket.resetAndDestroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
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

const [host = '', port, connections, streamPort] = process.argv.slice(2);
const stream = Number(streamPort) > 0 ? saturate(host, Number(streamPort)) : null;
const load: Load = { made: 0, failed: 0, streamed: 0 };
process.stdin.resume().once('end', () => {
  load.streamed = stream ? stream.bytesWritten - stream.writableLength : 0;
  process.stdout.write(`${JSON.stringify(load)}\n`, () => process.exit(0));
});
let left = Number(connections);
await Promise.all(
  Array.from({ length: AT_ONCE }, async () => {
    while (left-- > 0) {
      if (await short(host, Number(port))) load.made++;
      else load.failed++;
    }
  }),
);
process.stdout.write('made\n');
