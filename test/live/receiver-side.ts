/**
 * Runs inside the lab's sender node: records the receiver node to the file named on the command
 * line while this connects to the lab's faulty Service.
 */
import { once } from 'node:events';
import { connect } from 'node:net';
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const file = process.argv[2]!;
const bin = fileURLToPath(new URL('../../../bin/skbwhy.js', import.meta.url));
const receiver = process.env['SKBWHY_NETNS_RECEIVER']!;
const recorder = spawn(process.execPath, [bin, 'record', file, '--netns', receiver], {
  stdio: ['ignore', 'ignore', 'pipe'],
});
let said = '';
for await (const data of recorder.stderr) {
  said += String(data);
  if (said.includes('Recording to')) break;
}
const service = process.env['SKBWHY_SERVICE']!;
const at = service.lastIndexOf(':');
const socket = connect({ host: service.slice(0, at), port: Number(service.slice(at + 1)) });
await once(socket, 'connect');
socket.destroy();
await new Promise((resolve) => setTimeout(resolve, 300));
recorder.kill('SIGINT');
const [status] = (await once(recorder, 'exit')) as [number | null];
process.exitCode = status ?? 1;
