import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { PlanEntry } from '../../src/event/point.js';
import type { Finding } from '../../src/explain/finding.js';
import type { LabReport } from '../live/skbwhy.js';
import { runCommands, type CommandResult } from './commands.js';
import { chosenKernels, getKernel, type Kernel, type KernelName } from './kernel.js';
import { labsOn } from './labs.js';
import { foundText, writeMatrix, type MatrixRow } from './matrix.js';

/** Points that tracepoints see, from 5.10 on, and those that need netfilter programs (6.4). */
const TRACEPOINTS = [
  'tcp.retransmit',
  'socket.state',
  'tunnel.transmit',
  'tunnel.receive',
  'device.transmit',
  'device.receive',
  'packet.drop',
];
const NETFILTER = ['mark.set', 'nat.setup', 'nat.rewrite'];

/** Series without netfilter programs. */
const OLD: ReadonlySet<string> = new Set(['5.10', '6.1']);

const rows: MatrixRow[] = [];
after(() => {
  if (process.env['SKBWHY_EXPECT'] === 'write') writeMatrix(rows);
});

for (const name of chosenKernels()) describe(`kernel ${name}`, () => onKernel(name));

function onKernel(name: KernelName): void {
  const labs = labsOn(name);
  let kernel: Kernel;
  let results: Map<string, CommandResult>;

  before(async () => {
    kernel = await getKernel(name);
    const commands = labs.map(([row, { lab = row, set = [] }]) => {
      const settings = set.length > 0 ? ['--set', ...set] : [];
      return [row, ['lab', lab, '--json', ...settings]] as const;
    });
    results = await runCommands(
      kernel,
      { doctor: ['doctor', '--json'], ...Object.fromEntries(commands) },
      { parameters: kernel.switches.map((each) => `${each}=1`) },
    );
  });

  function output(command: string): unknown {
    const { status, stdout, stderr } = results.get(command)!;
    assert.equal(status, 0, stderr);
    return JSON.parse(stdout);
  }

  const isThere = (row: string) => labs.some(([each]) => each === row);
  const findingOf = (row: string): Finding => (output(row) as LabReport).findings[0]!;

  test('doctor says what this kernel allows', () => {
    const { points } = output('doctor') as { points: PlanEntry[] };
    const by = (mechanism: string | null) =>
      points.filter((each) => each.mechanism === mechanism).map(({ point }) => point);
    assert.deepEqual(new Set(by('tracepoint')), new Set(TRACEPOINTS));
    // what the defect kernel is built from is not this test's to say
    if (name !== 'defect') assert.deepEqual(by('netfilter'), OLD.has(name) ? [] : NETFILTER);
    for (const { point, mechanism, reason } of points)
      assert.ok(mechanism !== null || reason, `${point} is missing, and nobody says why`);
  });

  for (const [row, { finds, on, needs }] of labs) {
    const expected = on?.[name] ?? finds;
    test(`${row}: ${expected}`, (t) => {
      if (name === 'defect' && needs && !kernel.switches.includes(needs))
        return t.skip(`this image has no ${needs}`);
      const report = output(row) as LabReport;
      rows.push({ kernel: name, lab: row, report });
      assert.deepEqual(report.lost, { ring: 0, missed: 0, exchanges: 0 });
      assert.equal(foundText(report), expected);
    });
  }

  const oneSecond = ['double-snat', ...(name === 'defect' ? ['double-snat-noudpcsum'] : [])];
  for (const row of oneSecond.filter(isThere))
    test(`${row} takes 1 s, by another hash`, () => {
      const { attempts, bypass, prediction, delayMs, outcome } = findingOf(row);
      assert.equal(outcome, 'recovered');
      assert.deepEqual(
        attempts.map(({ fate }) => fate),
        ['dropped', 'delivered'],
      );
      assert.equal(bypass?.why, 'rehash');
      assert.equal(prediction?.recoverAtMs, 1000);
      // timers of an emulated machine come late, never early
      assert.ok(delayMs >= 1000, `${delayMs} ms`);
    });

  for (const row of ['double-snat-noudpcsum', 'double-snat-noudpcsum-same-hash'])
    if (name === 'defect' && isThere(row))
      test(`${row}: 0 becomes 0xffff`, () => {
        for (const { fate, checksum } of findingOf(row).attempts)
          assert.equal(checksum?.after, fate === 'dropped' ? 0xffff : 0);
      });

  if (isThere('double-snat-noudpcsum-same-hash'))
    test('double-snat-noudpcsum-same-hash takes 63 s: the entry has to expire', () => {
      const { attempts, bypass, prediction, delayMs } = findingOf(
        'double-snat-noudpcsum-same-hash',
      );
      assert.equal(bypass?.why, 'conntrack-expired');
      assert.equal(prediction?.recoverAtMs, 63_000);
      assert.ok(delayMs >= 63_000, `${delayMs} ms`);
      assert.equal(attempts.filter(({ fate }) => fate === 'dropped').length, 6);
    });

  if (isThere('double-snat-noudpcsum-rehash-later'))
    test('double-snat-noudpcsum-rehash-later takes 3 s: SO_TXREHASH counts from the second timeout', () => {
      const { attempts, bypass, prediction, delayMs } = findingOf(
        'double-snat-noudpcsum-rehash-later',
      );
      assert.deepEqual([bypass?.why, bypass?.attempt], ['rehash', 3]);
      assert.equal(prediction?.recoverAtMs, 3000);
      assert.ok(delayMs >= 3000, `${delayMs} ms`);
      assert.deepEqual(
        attempts.map(({ fate }) => fate),
        ['dropped', 'dropped', 'delivered'],
      );
    });

  if (isThere('double-snat-noudpcsum-never'))
    test('double-snat-noudpcsum-never fails, as predicted: no gap outlives the entry', () => {
      const { attempts, bypass, prediction, outcome } = findingOf('double-snat-noudpcsum-never');
      assert.equal(outcome, 'failed');
      assert.equal(bypass, null);
      assert.equal(prediction?.recoverAtMs, 'never');
      assert.deepEqual(
        attempts.map(({ fate }) => fate),
        ['dropped', 'dropped', 'dropped'],
      );
    });
}
