import assert from 'node:assert/strict';
import { execFileSync, spawn, type ChildProcessByStdio } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { lab } from '../../src/faults/double-snat/lab.js';
import type { ClientResult, RunningLab } from '../../src/lab/lab.js';
import { parseSettings } from '../../src/lab/settings.js';

const skip = process.geteuid?.() === 0 ? false : 'needs root';
const rehash = existsSync('/proc/sys/net/core/txrehash');

async function inLab<T>(
  assignments: string[],
  body: (running: RunningLab) => Promise<T>,
): Promise<T> {
  const running = await lab.up(parseSettings(lab, assignments));
  try {
    return await body(running);
  } finally {
    await running.down();
    for (const name of Object.values(running.namespaces)) {
      assert.ok(!existsSync(`/run/netns/${name}`), `${name} is left`);
    }
  }
}

const measure = (...assignments: string[]) => inLab(assignments, (running) => running.run());

function only(results: ClientResult[]): ClientResult {
  assert.equal(results.length, 1);
  const [result] = results;
  assert.ok(result);
  return result;
}

/** Connect time of the one client, in seconds; asserts that it was answered. */
async function connectTime(...assignments: string[]): Promise<number> {
  const result = only(await measure(...assignments));
  assert.equal(result.error, null);
  assert.ok(result.ok && result.connectMs !== null);
  return result.connectMs / 1000;
}

function between(seconds: number, low: number, high: number): void {
  assert.ok(seconds >= low && seconds <= high, `${seconds.toFixed(3)} s, not ${low} to ${high} s`);
}

/**
 * Runs clients until none met what another one's second SNAT left in conntrack's table, as one or two
 * in a hundred such runs do by chance: two hashes give one outer port, or a hash gives one that was
 * given away, and who should be served at once waits too.
 */
async function withoutMeeting(clients: number, healthy: number): Promise<ClientResult[]> {
  for (let run = 1; run <= 4; run++) {
    const { results, entries } = await inLab(
      [`clients=${clients}`, `healthy=${healthy}`],
      async (running) => ({
        results: await running.run(),
        entries: outerEntries(running.namespaces.sender!),
      }),
    );
    const translated = entries.filter(({ sport, given }) => sport !== given);
    // a faulty client's first SYN and its repeat, a healthy one's packets
    if (entries.length === 2 * clients + healthy && translated.length === clients) return results;
  }
  throw new Error('outer packets of different connections met four times in a row');
}

/** The sending node's conntrack entries of its tunnel packets: source port, and what it was made. */
function outerEntries(namespace: string): { sport: string; given: string }[] {
  const list = ['conntrack', '-L', '-p', 'udp', '-s', '192.168.100.1', '--dport', '8472'];
  const text = execFileSync('ip', ['netns', 'exec', namespace, ...list], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  return [...text.matchAll(/sport=(\d+) dport=8472 .* dport=(\d+)/g)].map(
    ([, sport = '', given = '']) => ({ sport, given }),
  );
}

/** The first SYN lost, its first repeat not. */
const once = (seconds: number) => between(seconds, 0.95, 1.6);
const atOnce = (seconds: number) => between(seconds, 0, 0.6);

/** Another process that owns a lab; `script` has `lab` and `parseSettings`. */
function ownerOf(script: string): ChildProcessByStdio<null, Readable, null> {
  const load = (names: string, path: string) =>
    `const { ${names} } = await import('${new URL(path, import.meta.url).href}');`;
  const imports =
    load('lab', '../../src/faults/double-snat/lab.js') +
    load('parseSettings', '../../src/lab/settings.js');
  return spawn(process.execPath, ['--input-type=module', '-e', imports + script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
}

function runs(pid: string): boolean {
  try {
    return !/^State:\s*[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'));
  } catch {
    return false;
  }
}

describe('the double-snat lab', { skip, concurrency: 3 }, () => {
  describe('loses the first SYN', { skip: !rehash && 'kernel without net.core.txrehash' }, () => {
    for (const assignments of [
      [],
      ['markBit=0x8000'],
      ['tunnelPort=4789'],
      ['tunnelDevice=foo0'],
      ['pods=172.20.0.0/16', 'services=10.3.0.0/16'],
      ['client=pod'],
      ['client=nodeport'],
      ['rules=iptables-legacy'],
      ['rules=iptables-nft'],
      ['rules=nft'],
      ['inner=ipv6'],
      ['inner=ipv6', 'rules=nft'],
      ['outer=ipv6'],
      ['inner=ipv6', 'outer=ipv6'],
      ['masqueradeFirst=true', 'xorMark=true'],
      ['masqueradeFirst=true', 'xorMark=true', 'rules=nft'],
    ]) {
      it(assignments.join(' ') || 'by default', async () =>
        once(await connectTime(...assignments)),
      );
    }
  });

  describe('loses nothing', () => {
    for (const cure of [
      'xorMark=true',
      'randomFully=false',
      'tunnelTxOffload=false',
      'tunnelChecksum=noudpcsum',
    ]) {
      for (const family of ['inner=ipv4', 'inner=ipv6', 'outer=ipv6']) {
        it(`${cure} ${family}`, async () => atOnce(await connectTime(cure, family)));
      }
    }
    it('clients=0 healthy=20', async () => {
      for (const result of await measure('clients=0', 'healthy=20')) {
        assert.equal(result.purpose, 'healthy');
        assert.ok(result.ok);
        atOnce((result.connectMs ?? Infinity) / 1000);
      }
    });
  });

  describe('without rehash, recovers at the first gap that outlives the outer conntrack entry', () => {
    const sameHash = ['txrehash=0', 'synLinearTimeouts=0'];
    it('after a gap of 2 s when it lives 2 s', async () =>
      between(await connectTime(...sameHash, 'udpTimeout=2'), 2.9, 3.6));
    it('after a gap of 4 s when it lives 3 s', async () =>
      between(await connectTime(...sameHash, 'udpTimeout=3'), 6.8, 7.9));
    it('after the gap in which it is deleted', async () =>
      between(await connectTime(...sameHash, 'deleteEntryAt=2.2'), 2.9, 3.6));
    it('never when no gap is so long', async () => {
      const result = only(await measure(...sameHash, 'synRetries=1'));
      assert.equal(result.ok, false);
      assert.equal(result.connectMs, null);
      assert.equal(result.error, 'ETIMEDOUT');
    });
    it('for a client in a pod and outside alike', async () => {
      for (const client of ['client=pod', 'client=nodeport']) {
        between(await connectTime(...sameHash, 'udpTimeout=2', client), 2.9, 3.6);
      }
    });
  });

  it('measures twenty clients at once, each by its own source', async () => {
    const results = await withoutMeeting(10, 10);
    assert.equal(new Set(results.map((result) => result.source)).size, 20);
    for (const { purpose, ok, connectMs } of results) {
      assert.ok(ok && connectMs !== null);
      if (purpose === 'healthy') atOnce(connectMs / 1000);
      else once(connectMs / 1000);
    }
  });

  it('has dead and silent servers beside, at any address family', async () => {
    for (const inner of ['inner=ipv4', 'inner=ipv6']) {
      const results = await measure(inner, 'clients=0', 'dead=1', 'silent=2', 'timeout=4.5');
      assert.deepEqual(
        results.map(({ purpose, ok, connectMs, error }) => ({ purpose, ok, connectMs, error })),
        [
          { purpose: 'dead', ok: false, connectMs: null, error: 'EHOSTUNREACH' },
          { purpose: 'silent', ok: false, connectMs: null, error: 'timeout' },
          { purpose: 'silent', ok: false, connectMs: null, error: 'timeout' },
        ],
      );
    }
  });

  it('loads the nodes beside its clients', async () => {
    const results = await measure('clients=0', 'healthy=1', 'unrelated=2000', 'stream=true');
    assert.deepEqual(
      results.map(({ purpose, ok, error }) => ({ purpose, ok, error })),
      [
        { purpose: 'healthy', ok: true, error: null },
        { purpose: 'unrelated', ok: true, error: null },
        { purpose: 'stream', ok: true, error: null },
      ],
    );
  });

  it("runs a user's command inside its node and returns its exit status", async () => {
    await inLab(['xorMark=true'], async (running) => {
      const script = `
        test "$(ip netns identify $$)" = "${running.node}" || exit 3
        test "$SKBWHY_SERVICE" = 10.96.0.10:80 || exit 4
        test "$SKBWHY_NETNS_RECEIVER" = "${running.namespaces.receiver}" || exit 5
        test "$PWD" = "${process.cwd()}" || exit 6
        exit 42`;
      assert.equal(await running.exec(['sh', '-c', script]), 42);
      assert.equal(await running.exec(['sh', '-c', 'kill -9 $$']), 128 + 9);
      assert.equal(await running.exec(['sh', '-c', 'sleep 300 & exit 0']), 0);
    });
  });

  it('gives up its clients and commands when aborted', async () => {
    await inLab(['timeout=60', 'txrehash=0'], async (running) => {
      const clients = running.run(AbortSignal.timeout(300));
      const command = running.exec(['sleep', '60'], { signal: AbortSignal.timeout(300) });
      assert.equal(only(await clients).error, 'aborted');
      assert.equal(await command, 128 + 15);
    });
  });

  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    it(`is gone when ${signal} ends its owner`, async () => {
      const script = `
        const running = await lab.up(parseSettings(lab, ['txrehash=0']));
        console.log(running.node);
        await running.run();`;
      const owner = ownerOf(script);
      const node = await new Promise<string>((resolve) =>
        owner.stdout.setEncoding('utf8').once('data', (text: string) => resolve(text.trim())),
      );
      owner.kill(signal);
      const ended = await new Promise((resolve) => owner.once('exit', (_, name) => resolve(name)));
      assert.equal(ended, signal);
      assert.ok(
        !readdirSync('/run/netns').some((name) => name.startsWith(node.replace(/sender$/, ''))),
      );
    });
  }
});

// others would add namespaces of this process, and remove those of one that was killed
describe('the lab double-snat, alone', () => {
  it('leaves nothing when its set-up is aborted or fails', async () => {
    const before = new Set(readdirSync('/run/netns'));
    await assert.rejects(lab.up(parseSettings(lab, []), AbortSignal.abort()));
    await assert.rejects(lab.up(parseSettings(lab, []), AbortSignal.timeout(30)));
    await assert.rejects(lab.up(parseSettings(lab, ['inner=ipv6', 'pods=10.1.0.0/16'])), {
      code: 'bad-option',
    });
    const ours = readdirSync('/run/netns').filter((name) =>
      name.startsWith(`skbwhy-${process.pid}`),
    );
    assert.deepEqual(
      ours.filter((name) => !before.has(name)),
      [],
    );
  });

  it('is removed by the next lab when its owner was killed, with the processes in it', async () => {
    const script = `
      const running = await lab.up(parseSettings(lab, []));
      console.log(running.node);
      await running.exec(['sh', '-c', 'echo $$; exec sleep 300']);`;
    const owner = ownerOf(script);
    let said = '';
    for await (const text of owner.stdout.setEncoding('utf8')) {
      said += text as string;
      if (said.split('\n').length > 2) break;
    }
    const [node = '', pid = ''] = said.split('\n');
    owner.kill('SIGKILL');
    await new Promise((resolve) => owner.once('exit', resolve));
    assert.ok(existsSync(`/run/netns/${node}`));
    await inLab([], () => {
      assert.ok(!existsSync(`/run/netns/${node}`));
      assert.ok(!runs(pid));
      return Promise.resolve();
    });
  });
});
