/**
 * A lab's DNS server program, started inside a namespace: `node name-server.js JSON`, the JSON being a
 * `NameServer`. Says `ready` when it listens; ends when its standard input does, so that it never
 * outlives the lab, unless `stay` came there first.
 */
import { createSocket } from 'node:dgram';
import { createServer } from 'node:net';
import { pathToFileURL } from 'node:url';

export interface NameServer {
  /** UDP and TCP; 53 if not told */
  port?: number;
  /** names it knows; every other one does not exist. Not told: it knows them all */
  names?: string[];
  /** how long it thinks about each question, ms */
  delayMs?: number;
  /** it asks this name server for everything, over UDP, and passes its answers on */
  forwardTo?: string;
  /** its answers over UDP say only that TCP should be used */
  truncates?: boolean;
  /** SO_RCVBUF of its UDP sockets, bytes; the kernel doubles it, and takes no less than 2304 */
  receiveBuffer?: number;
}

const A = 1;
const AAAA = 28;
const NXDOMAIN = 3;
const TRUNCATED = 0x02;

/** Where the question of a query ends, and its name. */
function readQuestion(query: Buffer): { name: string; end: number } {
  const labels: string[] = [];
  let at = 12;
  while (query[at]) {
    labels.push(query.toString('latin1', at + 1, at + 1 + query[at]!));
    at += query[at]! + 1;
  }
  return { name: labels.join('.').toLowerCase(), end: at + 5 };
}

/** One address for a name it knows (192.0.2.1, 2001:db8::1), none for other types. */
function answer(query: Buffer, server: NameServer, truncates: boolean): Buffer {
  const { name, end } = readQuestion(query);
  const type = query.readUInt16BE(end - 4);
  const known = server.names === undefined || server.names.includes(name);
  const address =
    type === A
      ? Buffer.from([192, 0, 2, 1])
      : Buffer.from('20010db8000000000000000000000001', 'hex');
  const answers = known && !truncates && (type === A || type === AAAA) ? 1 : 0;
  const header = Buffer.from(query.subarray(0, 12));
  header[2] = 0x85 | (truncates ? TRUNCATED : 0);
  header[3] = 0x80 | (known ? 0 : NXDOMAIN);
  header.writeUInt16BE(answers, 6);
  header.writeUInt32BE(0, 8);
  const record = Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 5, 0, address.length, ...address]);
  return Buffer.concat([header, query.subarray(12, end), ...(answers ? [record] : [])]);
}

/** Asks another server, by an id of its own, as caches do. */
function forward(query: Buffer, to: string, answered: (reply: Buffer) => void): void {
  const socket = createSocket('udp4');
  const own = Buffer.from(query);
  own.writeUInt16BE((query.readUInt16BE(0) + 1) & 0xffff, 0);
  socket.once('message', (reply) => {
    query.copy(reply, 0, 0, 2);
    answered(reply);
    socket.close();
  });
  socket.send(own, 53, to);
}

async function serve(server: NameServer): Promise<void> {
  const { port = 53, delayMs = 0, truncates = false } = server;
  for (const type of ['udp4', 'udp6'] as const) {
    const udp = createSocket({
      type,
      ipv6Only: type === 'udp6',
      ...(server.receiveBuffer ? { recvBufferSize: server.receiveBuffer } : {}),
    });
    udp.on('message', (query, from) => {
      if (server.forwardTo !== undefined) {
        forward(query, server.forwardTo, (reply) => udp.send(reply, from.port, from.address));
        return;
      }
      const reply = answer(query, server, truncates);
      setTimeout(() => udp.send(reply, from.port, from.address), delayMs);
    });
    await new Promise<void>((resolve, reject) => {
      // a namespace may be without IPv6
      udp.once('error', (error) => (type === 'udp6' ? resolve() : reject(error)));
      udp.bind(port, resolve);
    });
  }
  const tcp = createServer((socket) => {
    socket.on('error', () => undefined);
    let pending = Buffer.alloc(0);
    socket.on('data', (data: Buffer) => {
      pending = Buffer.concat([pending, data]);
      // each message after its length (RFC 1035, section 4.2.2)
      while (pending.length >= 2 && pending.length >= 2 + pending.readUInt16BE(0)) {
        const end = 2 + pending.readUInt16BE(0);
        const reply = answer(pending.subarray(2, end), server, false);
        const length = Buffer.from([reply.length >> 8, reply.length & 255]);
        setTimeout(() => socket.write(Buffer.concat([length, reply])), delayMs);
        pending = pending.subarray(end);
      }
    });
  });
  await new Promise<void>((resolve) => tcp.listen({ port, host: '0.0.0.0' }, resolve));
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  let stays = false;
  process.stdin.on('data', () => (stays = true)).once('end', () => stays || process.exit(0));
  await serve(JSON.parse(process.argv[2] ?? '{}') as NameServer);
  process.stdout.write('ready\n');
}
