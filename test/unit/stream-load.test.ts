import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { WebSocket } from 'ws';
import { unpack } from '../../src/stream/msgpack.js';
import { BACKLOG_BYTES } from '../../src/stream/subscriber.js';

/** SKBWHY_LOAD_SECONDS=60 for the long run. */
const SECONDS = Number(process.env['SKBWHY_LOAD_SECONDS'] ?? 4);
const RATE = 100_000;
const CLIENTS = 10;
const SERVER = fileURLToPath(new URL('./stream-load-server.js', import.meta.url));

interface Told {
  sent: number;
  cpuShare: number;
  rssGrowthMiB: number;
  rssMiB: number;
  backlog: number;
}

async function startServer() {
  const child = spawn(process.execPath, [SERVER, String(RATE), String(SECONDS)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const line = async () => JSON.parse((await lines.next()).value as string) as unknown;
  const { url } = (await line()) as { url: string };
  return { child, line, address: url.replace('http', 'ws') + '/stream' };
}

interface Counted {
  received: number;
  lost: number;
  next: number;
  ended: Promise<void>;
  socket: WebSocket;
}

/** Counts; decodes no more than the numbers, as the clients share the machine with the server. */
async function connect(address: string): Promise<Counted> {
  const socket = new WebSocket(address, 'skbwhy.v1', { perMessageDeflate: false });
  const counted = { received: 0, lost: 0, next: 0, socket } as Counted;
  counted.ended = new Promise((resolve, reject) => {
    socket.on('error', reject);
    socket.on('message', (data: Buffer) => {
      const message = unpack(data) as { type: string; firstSeq: number; count: number };
      if (message.type === 'records') {
        assert.equal(message.firstSeq, counted.next);
        counted.received += message.count;
        counted.next += message.count;
      } else if (message.type === 'lost') {
        assert.equal(message.firstSeq, counted.next);
        counted.lost += message.count;
        counted.next += message.count;
      } else if (message.type === 'end') resolve();
    });
  });
  await new Promise((resolve) => socket.once('open', resolve));
  return counted;
}

describe('ten clients at 100,000 records a second', () => {
  test('all receive all; one that does not read disturbs nobody and is told what it missed', async (t) => {
    const server = await startServer();
    try {
      const clients = await Promise.all(
        Array.from({ length: CLIENTS }, () => connect(server.address)),
      );
      const deaf = await connect(server.address);
      deaf.socket.pause();
      server.child.stdin.write('go\n');
      const told = (await server.line()) as Told;
      t.diagnostic(JSON.stringify(told));
      await Promise.all(clients.map(({ ended }) => ended));
      assert.ok(told.cpuShare < 0.4, `${told.cpuShare} of a core`);
      for (const { received, lost } of clients) {
        assert.equal(lost, 0);
        assert.equal(received, told.sent);
      }
      assert.ok(told.backlog <= BACKLOG_BYTES, `backlog ${told.backlog}`);
      assert.ok(told.rssGrowthMiB < 32, `memory grew by ${told.rssGrowthMiB} MiB`);
      deaf.socket.resume();
      await deaf.ended;
      assert.equal(deaf.received + deaf.lost, told.sent);
      assert.ok(deaf.lost > told.sent / 2, `${deaf.lost} lost`);
      for (const { socket } of [...clients, deaf]) socket.terminate();
    } finally {
      server.child.stdin.end('end\n');
    }
  });
});
