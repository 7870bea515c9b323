import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Finding, Report, Unexplained } from '../../src/explain/finding.js';
import { openFile } from '../../src/session/file-reader.js';
import { FileWriter } from '../../src/session/file-writer.js';
import { StreamClient } from '../../src/stream/client.js';
import { unseenStall } from '../replay/unseen-stall.js';
import { latest, log, Running, startDaemon } from './daemon.js';
import { isLoaded, programsOf } from './programs.js';
import { runLabOnce, skbwhy } from './skbwhy.js';

const execute = promisify(execFile);
/** Debian's Python has Debian's packages. */
const PYTHON = fileURLToPath(new URL('../../../test/live/stream-client.py', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'skbwhy-daemon-'));
after(() => rmSync(folder, { recursive: true }));

/** Services of a network that no other lab has, so that a daemon can tell its own. */
const SERVICES = `10.${200 + (process.pid % 50)}.0.0/16`;
const OURS = ['--filter', `net ${SERVICES}`];
const runLab = () => runLabOnce('double-snat', { services: SERVICES });

/** The findings of a file, in the order of `latest`. */
async function explained(file: string): Promise<Finding[]> {
  const { stdout, stderr } = await skbwhy(['explain', file, '--json']);
  assert.equal(stderr, '');
  return latest((JSON.parse(stdout) as Report).findings);
}

describe('the daemon', () => {
  test('tells every client, the file and the log the same findings; a replay tells them again', async () => {
    const file = join(folder, 'daemon.skbw');
    const daemon = await startDaemon('--record', file, ...OURS);
    const watchers = [
      Running.start('watch', daemon.url, '--json'),
      Running.start('watch', daemon.url, '--json'),
    ];
    const python = new Running(
      spawn('/usr/bin/python3', [PYTHON, `${daemon.url.replace('http', 'ws')}/stream`]),
      'python3',
    );
    await daemon.until(
      'clients',
      () => log(daemon).filter(({ msg }) => msg === 'a client came').length === 3,
    );
    await runLab();
    const late = Running.start('watch', daemon.url, '--json');
    await late.until('finding', ({ lines }) => lines.length > 0);
    const metrics = await (await fetch(`${daemon.url}/metrics`)).text();
    assert.ok((await daemon.stop()) < 1000);
    assert.equal(await daemon.exited, 0);

    const findings = await explained(file);
    assert.equal(findings.length, 1);
    assert.equal(findings[0]!.verdict, 'double-snat');
    assert.equal(findings[0]!.outcome, 'recovered');
    for (const watcher of [...watchers, late]) {
      assert.deepEqual(watcher.findings, findings);
      await watcher.stop();
    }
    assert.equal(await python.exited, 0, python.errors.join('\n'));
    const told = python.lines.map((line) => JSON.parse(line) as { finding?: Finding });
    assert.deepEqual(latest(told.flatMap(({ finding }) => finding ?? [])), findings);
    assert.ok(python.lines.includes('{"drop": "UDP_CSUM"}'), python.lines.join('\n'));
    assert.deepEqual(
      new Set(log(daemon).flatMap(({ finding }) => (finding as string) ?? [])),
      new Set([findings[0]!.id]),
    );
    assert.match(metrics, /^skbwhy_findings_total{verdict="double-snat"} 1$/m);
    assert.match(metrics, /^skbwhy_packet_drops_total{reason="UDP_CSUM"} 1$/m);
    assert.match(metrics, /^skbwhy_events_total{point="device.transmit"} \d+$/m);
    assert.match(metrics, /^skbwhy_program_runs_total{program="packet_drop"} \d+$/m);

    await replayed(file, findings);
  });

  test('goes when it is told, with everything detached and the file closed', async () => {
    const file = join(folder, 'closed.skbw');
    const daemon = await startDaemon('--record', file, ...OURS);
    const client = await StreamClient.connect(daemon.url);
    const programs = programsOf(daemon.child.pid!);
    assert.ok(programs.length > 0);
    assert.ok((await daemon.stop()) < 1000);
    assert.equal(await daemon.exited, 0);
    const types: string[] = [];
    for await (const { type } of client) types.push(type);
    assert.equal(types.at(-1), 'end');
    const session = await openFile(file);
    assert.equal(session.truncated, null);
    await session.close();
    const deadline = performance.now() + 2000;
    while (programs.some(isLoaded) && performance.now() < deadline) await sleep(20);
    assert.deepEqual(programs.filter(isLoaded), []);
  });

  test('killed loses at most the last second of its recording', async () => {
    const file = join(folder, 'killed.skbw');
    const daemon = await startDaemon('--record', file, ...OURS);
    const client = await StreamClient.connect(daemon.url);
    let last = 0;
    const reading = (async () => {
      for await (const message of client)
        if (message.type === 'records') last = message.firstSeq + message.count;
    })();
    const lab = runLab();
    await sleep(3000);
    const before = last;
    await sleep(1100);
    await daemon.stop('SIGKILL');
    await Promise.all([reading, lab]);
    const session = await openFile(file);
    assert.ok(session.truncated);
    let recorded = 0;
    for await (const { firstSeq, count } of session) recorded = firstSeq + count;
    await session.close();
    assert.ok(before > 0 && recorded >= before, `${recorded} recorded, ${before} told 1 s before`);
  });

  test('may run beside another, and does not begin on its address', async () => {
    const [one, two] = await Promise.all([startDaemon(...OURS), startDaemon(...OURS)]);
    const watchers = [one, two].map(({ url }) => Running.start('watch', url, '--json'));
    for (const watcher of watchers)
      void watcher.until('nothing', () => false).catch(() => undefined);
    const taken = await skbwhy(['daemon', '--listen', new URL(one.url).host, ...OURS]);
    assert.equal(taken.status, 1);
    assert.match(taken.stderr, /\[cannot-listen\]/);
    await runLab();
    for (const watcher of watchers)
      await watcher.until('recovery', ({ findings }) => findings[0]?.outcome === 'recovered');
    for (const running of [one, two, ...watchers]) assert.ok((await running.stop()) < 1000);
  });

  test('refuses to let others in without a token', async () => {
    const { status, stderr } = await skbwhy(['daemon', '--listen', '0.0.0.0:6363']);
    assert.equal(status, 2);
    assert.match(stderr, /^skbwhy: .*token.*\[bad-option\]\n$/);
  });

  test('goes on when the disk is full, says so once, and records again when there is room', async () => {
    const disk = join(folder, 'disk');
    mkdirSync(disk);
    await execute('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', disk]);
    try {
      const file = join(disk, 'full.skbw');
      const daemon = await startDaemon('--record', file, ...OURS);
      await daemon.until('file', () => existsSync(file));
      await sleep(1000);
      const filler = join(disk, 'filler');
      await execute('sh', ['-c', `cat /dev/zero > ${filler} || true`]).catch(() => undefined);
      const watcher = Running.start('watch', daemon.url, '--json');
      await runLab();
      await watcher.until('recovery', ({ findings }) => findings[0]?.outcome === 'recovered');
      const failed = () => log(daemon).filter(({ level }) => level >= 50);
      await daemon.until('error', () => failed().length > 0);
      const session = await openFile(file);
      let records = 0;
      for await (const { count } of session) records += count;
      await session.close();
      assert.ok(records > 0);
      rmSync(filler);
      await daemon.until('recovery', () => log(daemon).find(({ msg }) => /again/.test(msg)));
      assert.equal(failed().length, 1);
      assert.match(failed()[0]!.msg, /no space/i);
      await runLab();
      await daemon.stop();
      await watcher.stop();
      const [finding] = await explained(file);
      assert.equal(finding?.verdict, 'double-snat');
    } finally {
      await execute('umount', [disk]);
    }
  });

  test('with a flight recorder writes what led to a finding, and what is asked for', async () => {
    const flights = join(folder, 'flights');
    const options = ['--flight-recorder', '30', '--flight-dir', flights];
    const daemon = await startDaemon(...options, ...OURS);
    await runLab();
    const written = () => (existsSync(flights) ? readdirSync(flights) : []);
    await daemon.until('file', () => log(daemon).some(({ reason }) => reason === 'double-snat'));
    const [first] = written();
    const [finding] = await explained(join(flights, first!));
    assert.equal(finding?.verdict, 'double-snat');
    assert.equal(finding?.confidence, 'proved');
    daemon.child.kill('SIGUSR2');
    await daemon.until('file', () => log(daemon).some(({ reason }) => reason === 'signal'));
    assert.equal(written().length, 2);
    await daemon.stop();
  });
});

describe('watch', () => {
  test('says when nobody is there, or nobody lets it in', async () => {
    const nobody = await skbwhy(['watch', '127.0.0.1:1']);
    assert.equal(nobody.status, 1);
    assert.match(nobody.stderr, /^skbwhy: .*nobody listens.*\[cannot-connect\]\n$/);
    const token = join(folder, 'token');
    writeFileSync(token, 's3cret\n');
    const daemon = await startDaemon('--token-file', token, ...OURS);
    const refused = await skbwhy(['watch', daemon.url]);
    assert.equal(refused.status, 1);
    assert.match(refused.stderr, /401.*\[cannot-connect\]\n$/);
    const watcher = Running.start('watch', daemon.url, '--token-file', token);
    await watcher.until('session', ({ lines }) => lines[0]?.includes('Following'));
    for (const running of [watcher, daemon]) await running.stop();
  });

  test('finds a daemon that comes back, and repeats nothing', async () => {
    const port = 20_000 + (process.pid % 10_000);
    const listen = ['--listen', `127.0.0.1:${port}`];
    const first = await startDaemon(...listen, ...OURS);
    const watcher = Running.start('watch', first.url, '--json');
    await runLab();
    await watcher.until('recovery', ({ findings }) => findings[0]?.outcome === 'recovered');
    await first.stop();
    const second = await startDaemon(...listen, ...OURS);
    await second.until('client', () => log(second).some(({ msg }) => msg === 'a client came'));
    await runLab();
    await watcher.until('second finding', ({ findings }) => findings.length === 2);
    await second.stop();
    await watcher.stop();
    const keys = watcher.lines.map((line) => {
      const { id, revision } = JSON.parse(line) as Finding;
      return `${id}/${revision}`;
    });
    assert.equal(new Set(keys).size, keys.length);
  });
});

test('watch --json tells of what is unexplained, too', async () => {
  const file = join(folder, 'stall.skbw');
  const { header, records } = await unseenStall();
  const writer = await FileWriter.create(file, header);
  for (const [firstSeq, { bytes }] of records.entries())
    await writer.write({ firstSeq, count: 1, bytes });
  await writer.close();
  const { replay, url } = await startReplay(file, '--speed', 'max');
  const watcher = Running.start('watch', url, '--json');
  const [line] = await watcher.until('line', ({ lines }) => (lines.length > 0 ? lines : undefined));
  const { unexplained } = JSON.parse(line!) as { unexplained: Unexplained };
  assert.match(unexplained.title, /stalled/);
  for (const running of [watcher, replay]) await running.stop();
});

/** Serves a file, on a port of its own. */
async function startReplay(file: string, ...args: string[]) {
  const replay = Running.start('replay', file, '--listen', '127.0.0.1:0', ...args);
  const url = await replay.until('address', ({ errors }) =>
    /at (http:\S+);/.exec(errors.join())?.at(1),
  );
  return { replay, url };
}

/** At any speed, and wherever a client seeks, a replay of the file tells these findings. */
async function replayed(file: string, findings: readonly Finding[]): Promise<void> {
  const { replay, url } = await startReplay(file, '--speed', '4');
  const client = await StreamClient.connect(url);
  const told: Finding[] = [];
  let records = 0;
  let hellos = 0;
  let ends = 0;
  for await (const message of client) {
    if (message.type === 'hello') {
      hellos++;
      records = message.nextSeq;
      told.length = 0;
    } else if (message.type === 'records') {
      assert.equal(message.firstSeq, records);
      records += message.count;
    } else if (message.type === 'finding') told.push(message.finding);
    else if (message.type === 'end') {
      ends++;
      assert.deepEqual(latest(told), findings, `after end ${ends}`);
      if (ends === 1) {
        client.send({ type: 'speed', speed: 'max' });
        client.send({ type: 'seek', ms: 0 });
      } else if (ends === 2) client.send({ type: 'seek', ms: findings[0]!.delayMs + 1e9 });
      else break;
    }
  }
  assert.equal(hellos, 3);
  const watcher = await skbwhy(['watch', url, '--json']);
  const lines = watcher.stdout.trim().split('\n');
  assert.deepEqual(latest(lines.map((line) => JSON.parse(line) as Finding)), findings);
  assert.equal(watcher.status, 0);
  await replay.stop();
  assert.equal(await replay.exited, 0);
}
