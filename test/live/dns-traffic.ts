/**
 * A DNS server and a client for tests, each started inside a namespace: `server ADDRESS PORT` answers
 * every question until its standard input ends, `client ADDRESS PORT` asks a few and prints how many
 * were answered.
 */
import { createSocket } from 'node:dgram';
import { isIPv6 } from 'node:net';

const [role, address = '', port = '53'] = process.argv.slice(2);
const TYPE_A = 1;
const socket = createSocket(isIPv6(address) ? 'udp6' : 'udp4');

function question(id: number, name: string, edns: boolean): Buffer {
  const header = Buffer.from([id >> 8, id & 255, 1, 0, 0, 1, 0, 0, 0, 0, 0, edns ? 1 : 0]);
  const labels = name.split('.').flatMap((label) => [label.length, ...Buffer.from(label)]);
  // OPT (RFC 6891): root, type 41, UDP size 1232, no flags, no options
  const opt = edns ? [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0] : [];
  return Buffer.from([...header, ...labels, 0, 0, TYPE_A, 0, 1, ...opt]);
}

/** Two addresses for whatever was asked. */
function answer(query: Buffer): Buffer {
  let end = 12;
  while (query[end] !== 0) end += query[end]! + 1;
  const reply = Buffer.from(query.subarray(0, end + 5));
  reply[2] = 0x81;
  reply[3] = 0x80;
  reply[7] = 2;
  reply[11] = 0;
  const record = (last: number) => [0xc0, 12, 0, TYPE_A, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, last];
  return Buffer.concat([reply, Buffer.from([...record(1), ...record(2)])]);
}

if (role === 'server') {
  socket.on('message', (query, from) => socket.send(answer(query), from.port, from.address));
  socket.bind(Number(port), address, () => process.stdout.write('ready\n'));
  process.stdin.on('end', () => process.exit()).resume();
} else {
  const long = Array.from({ length: 6 }, () => 'a-label-of-about-thirty-letters').join('.');
  const asked = [
    question(1, 'www.example.com', false),
    question(2, 'kubernetes.default.svc.cluster.local', true),
    question(3, long, false),
  ];
  let answered = 0;
  const done = (): never => {
    console.log(answered);
    process.exit(answered === asked.length ? 0 : 1);
  };
  socket.on('message', () => ++answered === asked.length && done());
  for (const query of asked) socket.send(query, Number(port), address);
  setTimeout(done, 2000);
}
