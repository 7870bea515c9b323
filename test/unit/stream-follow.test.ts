import assert from 'node:assert/strict';
import { createServer, connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, test } from 'node:test';
import type { Finding } from '../../src/explain/finding.js';
import { Access } from '../../src/stream/access.js';
import { Channel } from '../../src/stream/channel.js';
import { follow } from '../../src/stream/follow.js';
import { PageFiles } from '../../src/stream/page-files.js';
import type { ServerMessage } from '../../src/stream/protocol.js';
import { StreamServer } from '../../src/stream/server.js';
import { batch, header } from './session-records.js';

const finding = (id: string, revision: number): Finding =>
  ({ id, revision, verdict: 'x', chain: [], ruledOut: [] }) as unknown as Finding;

async function serve(id: string, windowBytes: number, port = 0) {
  const channel = new Channel(header({ id }), { version: 'test', windowBytes });
  const server = await StreamServer.listen({
    listen: { host: '127.0.0.1', port },
    access: new Access(null),
    channel,
    page: new PageFiles(null),
    control: null,
  });
  return { channel, server, port: Number(new URL(server.url).port) };
}

/** A wire to a server that can be cut. */
async function wire(port: number) {
  const sockets = new Set<Socket>();
  const server = createServer((here) => {
    const there = connect(port, '127.0.0.1');
    for (const socket of [here, there]) {
      sockets.add(socket);
      socket.on('error', () => socket.destroy());
      socket.on('close', () => sockets.delete(socket));
    }
    here.pipe(there).pipe(here);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address() as { port: number };
  return {
    url: `http://127.0.0.1:${address.port}`,
    cut: () => sockets.forEach((socket) => socket.destroy()),
    close: () => server.close(),
  };
}

/** Follows in the background. */
function follower(url: string) {
  const stop = new AbortController();
  const messages: (ServerMessage | { type: 'disconnected' })[] = [];
  const done = (async () => {
    for await (const message of follow(url, { signal: stop.signal })) messages.push(message);
  })();
  const of = <T extends ServerMessage['type']>(type: T) =>
    messages.filter((m): m is Extract<ServerMessage, { type: T }> => m.type === type);
  return {
    messages,
    of,
    until: async (what: () => boolean) => {
      for (const end = performance.now() + 10_000; !what(); await sleep(5))
        assert.ok(performance.now() < end, JSON.stringify(messages.map(({ type }) => type)));
    },
    stop: async () => {
      stop.abort();
      await done;
    },
  };
}

describe('a follower', () => {
  test('goes on after the wire was cut: nothing twice, nothing missing', async () => {
    const { channel, server, port } = await serve('one', 16 << 20);
    const line = await wire(port);
    const following = follower(line.url);
    await following.until(() => following.of('hello').length === 1);
    let seq = 0;
    for (let round = 1; round <= 4; round++) {
      for (let i = 0; i < 20; i++, seq += 50) {
        channel.send(batch(seq, 50));
        if (i === 10) channel.finding(finding(`f${round}`, 1));
        await sleep(2);
      }
      line.cut();
      // what comes while nobody is there
      channel.send(batch(seq, 500));
      seq += 500;
      channel.finding(finding('f1', round + 1));
      await following.until(() => following.of('hello').length === round + 1);
    }
    await following.until(
      () =>
        (following.of('records').at(-1)?.firstSeq ?? 0) + following.of('records').at(-1)!.count ===
        seq,
    );
    let next = 0;
    for (const { firstSeq, count } of following.of('records')) {
      assert.equal(firstSeq, next);
      next += count;
    }
    assert.equal(next, seq);
    assert.equal(following.of('lost').length, 0);
    const told = following
      .of('finding')
      .map(({ finding: { id, revision } }) => `${id}/${revision}`);
    assert.equal(new Set(told).size, told.length);
    assert.deepEqual(
      ['f1/5', 'f2/1', 'f3/1', 'f4/1'].filter((key) => !told.includes(key)),
      [],
    );
    await following.stop();
    line.close();
    await server.close();
  });

  test('is told what is gone when it was away too long', async () => {
    const { channel, server, port } = await serve('one', 100_000);
    const line = await wire(port);
    const following = follower(line.url);
    await following.until(() => following.of('hello').length === 1);
    channel.send(batch(0, 100));
    await following.until(() => following.of('records').length === 1);
    line.cut();
    for (let seq = 100; seq < 5000; seq += 100) channel.send(batch(seq, 100));
    await following.until(() => {
      const last = following.of('records').at(-1)!;
      return last.firstSeq + last.count === 5000;
    });
    const [lost] = following.of('lost');
    assert.equal(lost?.firstSeq, 100);
    assert.equal(lost.firstSeq + lost.count, following.of('records')[1]!.firstSeq);
    await following.stop();
    line.close();
    await server.close();
  });

  test('begins anew with another session at the same place', async () => {
    const first = await serve('one', 1 << 20);
    const following = follower(`http://127.0.0.1:${first.port}`);
    await following.until(() => following.of('hello').length === 1);
    first.channel.send(batch(0, 1000));
    await following.until(() => following.of('records').length > 0);
    first.channel.end('the daemon ends');
    await first.server.close();
    const second = await serve('two', 1 << 20, first.port);
    await following.until(() => following.of('hello').length === 2);
    const [, hello] = following.of('hello');
    assert.equal(hello!.session.id, 'two');
    assert.equal(hello!.resumed, false);
    second.channel.send(batch(0, 10));
    await following.until(() => following.of('records').at(-1)!.firstSeq === 0);
    assert.ok(following.messages.some(({ type }) => type === 'disconnected'));
    await following.stop();
    await second.server.close();
  });
});
