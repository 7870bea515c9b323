import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { connect as dial, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { WebSocket, type ClientOptions } from 'ws';
import { Access } from '../../src/stream/access.js';
import { Channel } from '../../src/stream/channel.js';
import { StreamClient } from '../../src/stream/client.js';
import { pack, unpack } from '../../src/stream/msgpack.js';
import { PageFiles } from '../../src/stream/page-files.js';
import type { RefusedMessage } from '../../src/stream/protocol.js';
import { StreamServer } from '../../src/stream/server.js';
import { batch, header, random } from './session-records.js';

async function serve(options: { token?: string; page?: PageFiles } = {}) {
  const channel = new Channel(header(), { version: 'test' });
  const server = await StreamServer.listen({
    listen: { host: '127.0.0.1', port: 0 },
    access: new Access(options.token ?? null),
    channel,
    page: options.page ?? new PageFiles(null),
    control: null,
    metrics: () => Promise.resolve({ type: 'text/plain', text: 'up 1' }),
  });
  const { host } = new URL(server.url);
  return { channel, server, host, stream: `ws://${host}/stream` };
}
type Served = Awaited<ReturnType<typeof serve>>;

/** Status of an upgrade: 101, or what it is refused with. */
function knock(
  url: string,
  options: ClientOptions = {},
  protocols: string[] = ['skbwhy.v1'],
): Promise<{ status: number; socket: WebSocket }> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, protocols, options);
    socket.on('open', () => resolve({ status: 101, socket }));
    socket.on('unexpected-response', (_, { statusCode }) => {
      resolve({ status: statusCode!, socket });
      socket.terminate();
    });
    socket.on('error', reject);
  });
}

async function open(url: string): Promise<WebSocket> {
  const { status, socket } = await knock(url);
  assert.equal(status, 101);
  return socket;
}

const closeCode = (socket: WebSocket): Promise<number> =>
  new Promise((resolve) => socket.once('close', resolve));

/** GET with any path and headers, as no well-behaved client would send them. */
function get(
  host: string,
  path: string,
  headers: Record<string, string> = {},
  method = 'GET',
): Promise<{ status: number; headers: Record<string, unknown>; body: string }> {
  return new Promise((resolve, reject) => {
    const [hostname, port] = host.split(':');
    request({ hostname, port, path, headers, method, agent: false }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (part: string) => (body += part));
      response.on('end', () =>
        resolve({ status: response.statusCode!, headers: response.headers, body }),
      );
    })
      .on('error', reject)
      .end();
  });
}

/** What an honest client notices: ms from a record's sending to its arrival. */
async function latency({ channel, stream }: Served): Promise<() => Promise<number>> {
  const client = await StreamClient.connect(stream);
  const messages = client[Symbol.asyncIterator]();
  await messages.next();
  return async () => {
    const start = performance.now();
    const seq = channel.window.next;
    channel.send(batch(seq, 1));
    for (;;) {
      const { value } = await messages.next();
      assert.ok(value, 'the honest client was cut off');
      if (value.type === 'records' && value.firstSeq === seq) return performance.now() - start;
    }
  };
}

describe('the stream', () => {
  let served: Served;
  before(async () => {
    served = await serve({ token: 's3cret' });
  });
  after(() => served.server.close());

  test('lets in who has the token, and nobody else', async () => {
    const { stream } = served;
    const token = (value: string) => ({ headers: { authorization: `Bearer ${value}` } });
    const status = async (...args: Parameters<typeof knock>) => {
      const { status, socket } = await knock(...args);
      socket.terminate();
      return status;
    };
    assert.equal(await status(stream, token('s3cret')), 101);
    assert.equal(await status(`${stream}?token=s3cret`), 101);
    const carrier = `skbwhy.token.${Buffer.from('s3cret').toString('base64url')}`;
    assert.equal(await status(stream, {}, ['skbwhy.v1', carrier]), 101);
    assert.equal(await status(stream, token('wrong')), 401);
    assert.equal(await status(stream), 401);
    const origin = 'https://evil.example';
    assert.equal(await status(`${stream}?token=s3cret`, { origin }), 403);
    assert.equal(await status(`${stream}s?token=s3cret`), 404);
    assert.equal(await status(`${stream}?token=s3cret&filter=x`), 400);
    assert.equal(await status(`${stream}?token=s3cret&filter={"ports":[70000]}`), 400);
    assert.equal(await status(`${stream}?token=s3cret&session=a&after=x`), 400);
  });

  test('says why it refuses, in one line', async () => {
    await assert.rejects(StreamClient.connect(served.stream, { token: 'wrong' }), {
      code: 'cannot-connect',
      message: /401: wrong token/,
    });
    await assert.rejects(StreamClient.connect('127.0.0.1:1'), { message: /nobody listens/ });
    await assert.rejects(StreamClient.connect('ftp://x'), { code: 'bad-option' });
  });

  test('metrics want the token as well; health does not', async () => {
    const { host } = served;
    assert.equal((await get(host, '/metrics')).status, 401);
    const authorization = 'Bearer s3cret';
    assert.equal((await get(host, '/metrics', { authorization })).body, 'up 1\n');
    assert.equal((await get(host, '/healthz')).body, 'ok\n');
    assert.equal((await get(host, '/stream')).status, 426);
    assert.equal((await get(host, '/', {}, 'POST')).status, 405);
  });
});

describe('the page', () => {
  let served: Served;
  const folder = mkdtempSync(join(tmpdir(), 'skbwhy-page-'));
  before(async () => {
    const page = join(folder, 'page');
    mkdirSync(join(page, 'assets'), { recursive: true });
    writeFileSync(join(folder, 'secret.js'), 'secret');
    writeFileSync(join(page, 'index.html'), '<!doctype html>');
    writeFileSync(join(page, 'assets/app.js'), 'app');
    writeFileSync(join(page, 'notes.txt'), 'no type of ours');
    served = await serve({ page: new PageFiles(pathToFileURL(`${page}/`)) });
  });
  after(async () => {
    await served.server.close();
    rmSync(folder, { recursive: true });
  });

  test('comes with its files and nothing from elsewhere', async () => {
    const { status, headers, body } = await get(served.host, '/');
    assert.equal(status, 200);
    assert.equal(body, '<!doctype html>');
    assert.equal(headers['content-type'], 'text/html; charset=utf-8');
    assert.match(headers['content-security-policy'] as string, /default-src 'none'/);
    assert.equal((await get(served.host, '/assets/app.js?v=1')).body, 'app');
    const again = await get(served.host, '/', { 'if-none-match': headers['etag'] as string });
    assert.equal(again.status, 304);
  });

  test('leads nowhere else', async () => {
    for (const path of [
      '/../secret.js',
      '/..%2fsecret.js',
      '/%2e%2e/secret.js',
      '/assets/../../secret.js',
      '//secret.js',
      '/assets/',
      '/notes.txt',
      '/assets%00/app.js',
      '/etc/passwd',
      'http://other.example/secret.js',
      '/'.repeat(5000),
    ])
      assert.notEqual((await get(served.host, path)).status, 200, path);
  });

  test("is not for other sites' names", async () => {
    assert.equal((await get(served.host, '/', { host: 'evil.example' })).status, 403);
    assert.equal((await get(served.host, '/metrics', { host: 'evil.example' })).status, 403);
  });
});

describe('a hostile client', () => {
  let served: Served;
  let honest: () => Promise<number>;
  before(async () => {
    served = await serve();
    honest = await latency(served);
  });
  after(() => served.server.close());

  test('is closed with the right code', async () => {
    const { stream } = served;
    const code = async (send: (socket: WebSocket) => void) => {
      const socket = await open(stream);
      const closed = closeCode(socket);
      send(socket);
      return closed;
    };
    assert.equal(await code((socket) => socket.send('{"type":"pause"}')), 1003);
    assert.equal(await code((socket) => socket.send(Buffer.from([0xc1]))), 1007);
    assert.equal(await code((socket) => socket.send(pack([1, 2]))), 1007);
    assert.equal(await code((socket) => socket.send(Buffer.alloc(65_537))), 1009);
    assert.equal(await code((socket) => socket.send(Buffer.alloc(100 << 20))), 1009);
    const many = (socket: WebSocket) => {
      for (let i = 0; i < 1000; i++) socket.send(pack({ type: 'filter', filter: null }));
    };
    assert.equal(await code(many), 1008);
  });

  test('a message that cannot be met is answered', async () => {
    const socket = await open(served.stream);
    const answers: RefusedMessage[] = [];
    socket.on('message', (data: Buffer) => {
      const message = unpack(data) as RefusedMessage;
      if (message.type === 'refused') answers.push(message);
    });
    socket.send(pack({ type: 'seek', ms: 5 }));
    socket.send(pack({ type: 'filter', filter: { points: ['nowhere'] } }));
    socket.send(pack({ type: 'evidence', finding: 'none' }));
    socket.send(pack({ type: 'dance' }));
    while (answers.length < 4) await sleep(5);
    assert.deepEqual(
      answers.map(({ request }) => request),
      ['seek', 'filter', 'evidence', 'dance'],
    );
    assert.match(answers[0]!.reason, /live/);
    assert.match(answers[1]!.reason, /points/);
    socket.terminate();
  });

  test('with 100,000 random messages changes nothing for others', async (t) => {
    const next = random(42);
    const before = process.memoryUsage.rss();
    let sent = 0;
    let worst = 0;
    const codes = new Map<number, number>();
    // a valid message as a start for half of them, so that more than the first byte is looked at
    const seed = pack({ type: 'filter', filter: { ports: [80], netns: ['a', 1] } });
    while (sent < 100_000) {
      const { status, socket } = await knock(served.stream);
      if (status === 429) {
        await sleep(50);
        continue;
      }
      const closed = closeCode(socket);
      for (let i = 0; i < 2000 && sent < 100_000; i++, sent++) {
        const message = Buffer.from(
          next() < 0.5
            ? seed
            : Buffer.from(Array.from({ length: next() * 60 }, () => next() * 256)),
        );
        for (let flips = next() * 3; flips > 0 && message.length > 0; flips--)
          message[Math.floor(next() * message.length)] = next() * 256;
        socket.send(message);
      }
      worst = Math.max(worst, await honest());
      const code = await closed;
      codes.set(code, (codes.get(code) ?? 0) + 1);
    }
    t.diagnostic(`closed with ${JSON.stringify([...codes])}; honest latency up to ${worst} ms`);
    for (const code of codes.keys()) assert.ok([1007, 1008].includes(code), `${code}`);
    assert.ok(worst < 1000);
    const growth = (process.memoryUsage.rss() - before) / 2 ** 20;
    assert.ok(growth < 200, `${growth} MiB more`);
  });

  test('that speaks no HTTP, or stops in the middle of it, is closed', async () => {
    const [hostname, port] = served.host.split(':') as [string, string];
    const speak = async (bytes: Buffer | string): Promise<boolean> => {
      const socket = dial(Number(port), hostname);
      socket.on('error', () => undefined);
      socket.resume();
      socket.write(bytes);
      return Promise.race([
        new Promise<boolean>((resolve) => socket.once('close', () => resolve(true))),
        sleep(9000, false, { ref: false }),
      ]);
    };
    const next = random(7);
    const noise = Buffer.from(Array.from({ length: 5000 }, () => next() * 256));
    const closed = await Promise.all([
      speak(noise),
      speak('GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: '),
      speak(`GET / HTTP/1.1\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`),
    ]);
    assert.deepEqual(closed, [true, true, true]);
    assert.ok((await honest()) < 1000);
  });
});

describe('a flood of connections', () => {
  test('of 10,000 in 10 s is turned away while honest clients go on', async (t) => {
    const served = await serve();
    const honest = await latency(served);
    const [hostname, port] = served.host.split(':') as [string, string];
    const upgrade =
      `GET /stream HTTP/1.1\r\nHost: ${served.host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
      'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n';
    const before = process.memoryUsage.rss();
    const answers = new Map<string, number>();
    const sockets = new Set<Socket>();
    let worst = 0;
    const start = performance.now();
    for (let n = 0; n < 10_000;) {
      for (const end = n + 50; n < end; n++) {
        const socket = dial(Number(port), hostname);
        sockets.add(socket);
        let answer = 'closed';
        socket.on('error', () => undefined);
        socket.once('data', (data) => (answer = data.toString('latin1', 9, 12)));
        socket.once('connect', () => socket.write(upgrade));
        socket.once('close', () => {
          sockets.delete(socket);
          answers.set(answer, (answers.get(answer) ?? 0) + 1);
        });
      }
      worst = Math.max(worst, await honest());
      const wait = start + n - performance.now();
      if (wait > 0) await sleep(wait);
    }
    await sleep(200);
    const { clients } = served.server;
    for (const socket of sockets) socket.destroy();
    await sleep(200);
    const growth = (process.memoryUsage.rss() - before) / 2 ** 20;
    t.diagnostic(
      `${JSON.stringify([...answers])}, ${clients} let in; honest latency up to ${worst} ms, ` +
        `${growth} MiB more, ${(performance.now() - start) / 1000} s`,
    );
    assert.ok(clients <= 64);
    assert.ok((answers.get('429') ?? 0) + (answers.get('503') ?? 0) > 1000);
    assert.ok(worst < 1000);
    assert.ok(growth < 200);
    assert.ok((await honest()) < 200);
    await served.server.close();
  });
});

describe('the server', () => {
  test('says goodbye within half a second, also to those who do not listen', async () => {
    const served = await serve();
    const polite = await open(served.stream);
    const deaf = await open(served.stream);
    deaf.pause();
    const code = closeCode(polite);
    const start = performance.now();
    await served.server.close();
    assert.ok(performance.now() - start < 500);
    assert.equal(await code, 1001);
    deaf.terminate();
  });

  test('says when its place is taken', async () => {
    const served = await serve();
    const port = Number(new URL(served.server.url).port);
    const { channel } = served;
    await assert.rejects(
      StreamServer.listen({
        listen: { host: '127.0.0.1', port },
        access: new Access(null),
        channel,
        page: new PageFiles(null),
        control: null,
      }),
      { code: 'cannot-listen', message: /in use/ },
    );
    await served.server.close();
  });
});
