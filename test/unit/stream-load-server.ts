/**
 * A stream of made-up records at a steady rate, in a process of its own so that its cost can be
 * told: `node stream-load-server.js RATE SECONDS`. Says its URL first and what it cost at the end.
 */
import { Channel } from '../../src/stream/channel.js';
import { Access } from '../../src/stream/access.js';
import { PageFiles } from '../../src/stream/page-files.js';
import { StreamServer } from '../../src/stream/server.js';
import { event, header } from './session-records.js';

const [rate, seconds] = process.argv.slice(2).map(Number) as [number, number];
const channel = new Channel(header(), { version: 'test' });
const server = await StreamServer.listen({
  listen: { host: '127.0.0.1', port: 0 },
  access: new Access(null),
  channel,
  page: new PageFiles(null),
  control: null,
});
const say = (message: object): void => void process.stdout.write(`${JSON.stringify(message)}\n`);
say({ url: server.url });

/** Records of 256 bytes. */
const block = Buffer.concat(Array.from({ length: 1000 }, (_, i) => event(1e9 + i, 48, i)));
const perRecord = block.length / 1000;

await new Promise((resolve) => process.stdin.once('data', resolve));
const start = performance.now();
const before = process.cpuUsage();
let seq = 0;
let rss = 0;
let rssEarly = 0;
await new Promise<void>((resolve) => {
  const timer = setInterval(() => {
    const due = Math.floor(((performance.now() - start) / 1000) * rate);
    const elapsed = (performance.now() - start) / 1000;
    while (seq < due && seq < rate * seconds) {
      const count = Math.min(due - seq, 1000);
      channel.send({ firstSeq: seq, count, bytes: block.subarray(0, count * perRecord) });
      seq += count;
    }
    const now = process.memoryUsage.rss();
    if (elapsed < seconds / 3) rssEarly = Math.max(rssEarly, now);
    rss = Math.max(rss, now);
    if (seq >= rate * seconds) {
      clearInterval(timer);
      resolve();
    }
  }, 5);
});
const cpu = process.cpuUsage(before);
const elapsed = (performance.now() - start) / 1000;
const backlog = Math.max(...[...channel.subscribers].map((each) => each.backlog));
channel.end('enough');
say({
  sent: seq,
  bytesPerRecord: perRecord,
  cpuShare: (cpu.user + cpu.system) / 1e6 / elapsed,
  rssGrowthMiB: (rss - rssEarly) / 2 ** 20,
  rssMiB: rss / 2 ** 20,
  backlog,
});
await new Promise((resolve) => process.stdin.once('data', resolve));
await server.close();
process.exit(0);
