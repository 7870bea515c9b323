/**
 * A lab's hoarder, started inside a namespace: `node hold.js ADDRESS PORT COUNT` opens so many TCP
 * connections, says `held` when they stand, and keeps them until its standard input ends.
 */
import { connect } from 'node:net';

const AT_ONCE = 64;

const [host = '', port, count] = process.argv.slice(2);
let left = Number(count);

function one(): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port: Number(port) }, resolve);
    socket.once('error', reject);
  });
}

process.stdin.resume().once('end', () => process.exit(0));
await Promise.all(
  Array.from({ length: AT_ONCE }, async () => {
    while (left-- > 0) await one();
  }),
);
process.stdout.write('held\n');
