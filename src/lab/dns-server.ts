/**
 * A lab's DNS server, started inside a namespace: `node dns-server.js JSON`, the JSON being `DnsServer`.
 * Answers every A and AAAA question. Says `ready` when it listens everywhere; ends when its standard
 * input does, so that it never outlives the lab, unless `stay` came there first.
 */
import { createSocket } from 'node:dgram';
import { isIPv6 } from 'node:net';
import { encodeAnswer } from './dns-message.js';

export interface DnsServer {
  addresses: readonly string[];
  port: number;
  /** how long it takes for an answer, ms */
  delayMs: number;
  /**
   * which answers take so long: all, or the first ones to names of which two of the addresses were
   * asked at once, which happens when the queries of one lookup were translated differently
   */
  delayed: 'all' | 'divided';
}

/** Before it is known who else is asked, ms. */
const LOOK_AROUND_MS = 50;
const RECEIVE_BUFFER = 4 << 20;

let stays = false;
process.stdin.on('data', () => (stays = true)).once('end', () => stays || process.exit(0));
const { addresses, port, delayMs, delayed } = JSON.parse(process.argv[2] ?? '') as DnsServer;
/** addresses that were asked, by name */
const asked = new Map<string, Set<string>>();
const answered = new Set<string>();

/** Tells when the answer to a query may leave. */
function whenReady(query: Buffer, address: string, answer: () => void): void {
  if (delayMs === 0) return answer();
  if (delayed === 'all') return void setTimeout(answer, delayMs);
  const question = query.toString('latin1', 12);
  const name = question.slice(0, question.indexOf('\0'));
  const addresses = asked.get(name) ?? new Set();
  asked.set(name, addresses.add(address));
  setTimeout(() => {
    const slow = addresses.size > 1 && !answered.has(question);
    answered.add(question);
    setTimeout(answer, slow ? delayMs - LOOK_AROUND_MS : 0);
  }, LOOK_AROUND_MS);
}

for (const address of addresses) {
  const socket = createSocket({
    type: isIPv6(address) ? 'udp6' : 'udp4',
    recvBufferSize: RECEIVE_BUFFER,
  });
  socket.on('message', (query, from) =>
    whenReady(query, address, () => socket.send(encodeAnswer(query), from.port, from.address)),
  );
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject);
    socket.bind(port, address, resolve);
  });
}
process.stdout.write('ready\n');
