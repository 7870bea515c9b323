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
}

const RECEIVE_BUFFER = 4 << 20;

let stays = false;
process.stdin.on('data', () => (stays = true)).once('end', () => stays || process.exit(0));
const { addresses, port, delayMs } = JSON.parse(process.argv[2] ?? '') as DnsServer;
for (const address of addresses) {
  const socket = createSocket({
    type: isIPv6(address) ? 'udp6' : 'udp4',
    recvBufferSize: RECEIVE_BUFFER,
  });
  socket.on('message', (query, from) => {
    const answer = () => socket.send(encodeAnswer(query), from.port, from.address);
    if (delayMs > 0) setTimeout(answer, delayMs);
    else answer();
  });
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject);
    socket.bind(port, address, resolve);
  });
}
process.stdout.write('ready\n');
