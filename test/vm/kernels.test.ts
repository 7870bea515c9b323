import assert from 'node:assert/strict';
import { after, before, describe, test, type TestContext } from 'node:test';
import type { PlanEntry } from '../../src/event/point.js';
import type { Finding } from '../../src/explain/finding.js';
import type { LabReport } from '../live/skbwhy.js';
import { runCommands, type CommandResult } from './commands.js';
import { chosenKernels, getKernel, type Kernel, type KernelName } from './kernel.js';
import { LABS, labsOn } from './labs.js';
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

  /** Skips the test where the kernel has not the switch that the row's fault needs. */
  function lacks(t: TestContext, row: string): boolean {
    const { needs } = LABS[row]!;
    if (name !== 'defect' || !needs || kernel.switches.includes(needs)) return false;
    t.skip(`this image has no ${needs}`);
    return true;
  }

  for (const [row, { finds, on }] of labs) {
    const expected = on?.[name] ?? finds;
    test(`${row}: ${expected}`, (t) => {
      if (lacks(t, row)) return;
      const report = output(row) as LabReport;
      rows.push({ kernel: name, lab: row, report });
      assert.deepEqual(report.lost, { ring: 0, missed: 0, exchanges: 0 });
      assert.equal(foundText(report), expected);
    });
  }

  function testFinding(row: string, what: string, check: (finding: Finding) => void): void {
    if (labs.some(([each]) => each === row))
      test(`${row} ${what}`, (t) => {
        if (!lacks(t, row)) check((output(row) as LabReport).findings[0]!);
      });
  }
  const fatesOf = ({ attempts }: Finding) => attempts.map(({ fate }) => fate);

  for (const row of ['double-snat', ...(name === 'defect' ? ['double-snat-noudpcsum'] : [])])
    testFinding(row, 'takes 1 s, by another hash', (finding) => {
      const { bypass, prediction, delayMs, outcome } = finding;
      assert.equal(outcome, 'recovered');
      assert.deepEqual(fatesOf(finding), ['dropped', 'delivered']);
      assert.equal(bypass?.why, 'rehash');
      assert.equal(prediction?.recoverAtMs, 1000);
      // timers of an emulated machine come late, never early
      assert.ok(delayMs >= 1000, `${delayMs} ms`);
    });

  if (labs.some(([row]) => row === 'double-snat-shared-port'))
    test('double-snat-shared-port tells bystanders whose entry translates them', () => {
      const { findings } = output('double-snat-shared-port') as LabReport;
      const bystanders = findings.filter(({ attempts }) => attempts[0]?.mark === 0);
      assert.deepEqual([findings.length, bystanders.length], [3, 2]);
      for (const { chain, attempts, bypass } of bystanders) {
        assert.ok(chain.some(({ claim }) => claim === 'entry-of-another'));
        assert.equal(attempts[0]?.outerConntrack?.state, 'existing');
        assert.equal(bypass?.why, 'conntrack-expired');
      }
    });

  if (name !== 'defect') return;

  for (const row of ['double-snat-noudpcsum', 'double-snat-noudpcsum-same-hash'])
    testFinding(row, 'turns 0 into 0xffff, at nf_nat_manip_pkt', ({ attempts, chain }) => {
      for (const { fate, checksum } of attempts)
        assert.equal(checksum?.after, fate === 'dropped' ? 0xffff : 0);
      const broken = chain.find(({ claim }) => claim === 'checksum-broken');
      assert.match(
        broken?.text ?? '',
        /nf_nat_manip_pkt was given port \d+ with checksum 0x0000, and left port \d+ with 0xffff/,
      );
    });

  testFinding(
    'double-snat-noudpcsum-same-hash',
    'takes 63 s: the entry has to expire',
    (finding) => {
      const { bypass, prediction, delayMs } = finding;
      assert.equal(bypass?.why, 'conntrack-expired');
      assert.match(bypass.text, /The kernel was seen deleting it/);
      assert.equal(prediction?.recoverAtMs, 63_000);
      assert.ok(delayMs >= 63_000, `${delayMs} ms`);
      assert.equal(fatesOf(finding).filter((fate) => fate === 'dropped').length, 6);
    },
  );

  testFinding(
    'double-snat-noudpcsum-rehash-later',
    'takes 3 s: SO_TXREHASH counts from the second timeout',
    (finding) => {
      const { bypass, prediction, delayMs } = finding;
      assert.deepEqual([bypass?.why, bypass?.attempt], ['rehash', 3]);
      assert.equal(prediction?.recoverAtMs, 3000);
      assert.ok(delayMs >= 3000, `${delayMs} ms`);
      assert.deepEqual(fatesOf(finding), ['dropped', 'dropped', 'delivered']);
    },
  );

  testFinding(
    'double-snat-noudpcsum-never',
    'fails, as predicted: no gap outlives the entry',
    (finding) => {
      const { bypass, prediction, outcome } = finding;
      assert.equal(outcome, 'failed');
      assert.equal(bypass, null);
      assert.equal(prediction?.recoverAtMs, 'never');
      assert.deepEqual(fatesOf(finding), ['dropped', 'dropped', 'dropped']);
    },
  );
}
