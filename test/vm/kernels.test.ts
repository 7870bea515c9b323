import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { PlanEntry } from '../../src/event/point.js';
import type { Finding, Report } from '../../src/explain/finding.js';
import type { LabReport } from '../live/skbwhy.js';
import { runCommands, type CommandResult } from './commands.js';
import { chosenKernels, getKernel, type Kernel, type KernelName } from './kernel.js';
import { writeMatrix, type MatrixRow } from './matrix.js';

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

/** Kernels that tell no drop reason (before 5.17), and the faults that cannot be proved without one. */
const NO_REASONS: ReadonlySet<string> = new Set(['5.10']);
const NEED_REASONS: ReadonlySet<string> = new Set(['no-listener', 'reverse-path-filter']);

/** Series without netfilter programs. */
const OLD: ReadonlySet<string> = new Set(['5.10', '6.1']);

const lab = (name: string, ...settings: string[]) => [
  ...['lab', name, '--json'],
  ...(settings.length > 0 ? ['--set', ...settings] : []),
];

/** On every kernel. */
const COMMANDS = {
  doctor: ['doctor', '--json'],
  'double-snat': lab('double-snat'),
  'double-snat-xor-mark': lab('double-snat', 'xorMark=true'),
  'double-snat-noudpcsum': lab('double-snat', 'tunnelChecksum=noudpcsum'),
  'conntrack-insert-race': lab('conntrack-insert-race'),
  'conntrack-reply-collision': lab('conntrack-reply-collision'),
  'no-listener': lab('no-listener'),
  'policy-drop': lab('policy-drop'),
  'reverse-path-filter': lab('reverse-path-filter'),
} as const;

const legacy = (...settings: string[]) =>
  lab('double-snat', 'tunnelChecksum=noudpcsum', ...settings);

/** On the kernel with the old faults. */
const DEFECT_COMMANDS = {
  'double-snat-noudpcsum-same-hash': legacy('txrehash=0', 'synLinearTimeouts=0'),
  'double-snat-noudpcsum-xor-mark': legacy('xorMark=true'),
  'double-snat-noudpcsum-tunnel-offload-off': legacy('tunnelTxOffload=false'),
  'double-snat-noudpcsum-no-random-fully': legacy('randomFully=false'),
} as const;

type CommandName = keyof typeof COMMANDS | keyof typeof DEFECT_COMMANDS;

const rows: MatrixRow[] = [];
after(() => {
  if (process.env['SKBWHY_EXPECT'] === 'write') writeMatrix(rows);
});

for (const name of chosenKernels()) describe(`kernel ${name}`, () => onKernel(name));

function onKernel(name: KernelName): void {
  const defect = name === 'defect';
  let kernel: Kernel;
  let results: Map<string, CommandResult>;

  before(async () => {
    kernel = await getKernel(name);
    results = await runCommands(
      kernel,
      { ...COMMANDS, ...(defect ? DEFECT_COMMANDS : {}) },
      { parameters: kernel.switches.map((each) => `${each}=1`) },
    );
  });

  function output(command: CommandName): unknown {
    const { status, stdout, stderr } = results.get(command) ?? {
      status: -1,
      stdout: '',
      stderr: '',
    };
    assert.equal(status, 0, stderr);
    return JSON.parse(stdout);
  }

  function report(command: CommandName): Report {
    const labReport = output(command) as LabReport;
    assert.deepEqual(labReport.lost, { ring: 0, missed: 0, exchanges: 0 });
    rows.push({ kernel: name, lab: command, report: labReport });
    return labReport;
  }

  function only(command: CommandName, verdict: string): Finding {
    const { findings } = report(command);
    assert.deepEqual([...new Set(findings.map((each) => each.verdict))], [verdict]);
    return findings[0]!;
  }

  const nothing = (command: CommandName) => assert.deepEqual(report(command).findings, []);

  test('doctor says what this kernel allows', () => {
    const { points } = output('doctor') as { points: PlanEntry[] };
    const by = (mechanism: string | null) =>
      points.filter((each) => each.mechanism === mechanism).map(({ point }) => point);
    assert.deepEqual(new Set(by('tracepoint')), new Set(TRACEPOINTS));
    // what the defect kernel is built from is not this test's to say
    if (!defect) assert.deepEqual(by('netfilter'), OLD.has(name) ? [] : NETFILTER);
    for (const { point, mechanism, reason } of points)
      assert.ok(mechanism !== null || reason, `${point} is missing, and nobody says why`);
  });

  test('double-snat, a tunnel with outer checksums: 1 s, by another hash', () => {
    const finding = only('double-snat', 'double-snat');
    assert.equal(finding.defect, 'udpcsum-not-updated');
    assertOneSecond(finding);
  });
  test('… and not where the chain clears the mark', () => nothing('double-snat-xor-mark'));

  if (!defect) {
    test('double-snat, a tunnel without: all is well', () => nothing('double-snat-noudpcsum'));
    test('a clash of two entries is resolved', () => nothing('conntrack-insert-race'));
  } else {
    test('double-snat, a tunnel without outer checksums: 1 s, by another hash', () => {
      const finding = only('double-snat-noudpcsum', 'double-snat');
      assertLegacy(finding);
      assertOneSecond(finding);
    });
    test('… 63 s where the hash stays: the entry had to expire', () => {
      const finding = only('double-snat-noudpcsum-same-hash', 'double-snat');
      assertLegacy(finding);
      assert.equal(finding.bypass?.why, 'conntrack-expired');
      assert.equal(finding.prediction?.recoverAtMs, 63_000);
      assert.ok(finding.delayMs >= 63_000, `${finding.delayMs} ms`);
      assert.equal(finding.attempts.filter(({ fate }) => fate === 'dropped').length, 6);
    });
    for (const cure of ['xor-mark', 'tunnel-offload-off', 'no-random-fully'] as const)
      test(`… and not with ${cure}`, () => nothing(`double-snat-noudpcsum-${cure}`));
    test('a clash of two entries: the second query is lost, and repeated after 2.5 s', (t) => {
      if (!kernel.switches.includes('nf_conntrack.drop_clashes'))
        return t.skip('this image has no switch for it');
      const finding = only('conntrack-insert-race', 'conntrack-insert-race');
      assert.equal(finding.defect, 'same-tuple');
      assert.equal(finding.confidence, 'proved');
      assert.equal(finding.outcome, 'recovered');
      assert.ok(finding.delayMs >= 2500, `${finding.delayMs} ms`);
    });
  }

  for (const fault of [
    'conntrack-reply-collision',
    'no-listener',
    'policy-drop',
    'reverse-path-filter',
  ] as const)
    if (NO_REASONS.has(name) && NEED_REASONS.has(fault))
      test(`${fault} cannot be told, and nothing else is blamed`, () => {
        const { findings, unexplained } = report(fault);
        assert.deepEqual(findings, []);
        assert.ok(unexplained.length > 0);
      });
    else
      test(`${fault} is found`, () => {
        only(fault, fault);
      });
}

function assertOneSecond({ attempts, bypass, prediction, delayMs, outcome }: Finding): void {
  assert.equal(outcome, 'recovered');
  assert.deepEqual(
    attempts.map(({ fate }) => fate),
    ['dropped', 'delivered'],
  );
  assert.equal(bypass?.why, 'rehash');
  assert.equal(prediction?.recoverAtMs, 1000);
  // timers of an emulated machine come late, never early
  assert.ok(delayMs >= 1000, `${delayMs} ms`);
}

function assertLegacy({ defect, attempts, confidence }: Finding): void {
  assert.equal(defect, 'legacy-zero-checksum');
  assert.equal(confidence, 'proved');
  for (const { fate, checksum } of attempts)
    assert.equal(checksum?.after, fate === 'dropped' ? 0xffff : 0);
}
