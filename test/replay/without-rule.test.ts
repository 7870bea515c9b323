import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Finding } from '../../src/explain/finding.js';
import { recordedAt, reportOf, type Record, type Recorded } from './altered.js';

/** Connections whose outer packets came to what another one's second SNAT had left in the table. */
const SHARED = 'sessions/6.18-shared-outer-port-6s.skbw';
const TAKEN = 'sessions/6.18-taken-outer-port-2s.skbw';
/** One connection alone. */
const ALONE = 'sessions/defect-flannel-63s.skbw';

const NAT = new Set(['nat.setup', 'nat.rewrite', 'mark.set']);

const withoutRules = ({ header, records }: Recorded): Recorded => ({
  header,
  records: records.filter(({ fact }) => fact !== 'rules'),
});

/** As a kernel shows it that takes no programs at NAT's hooks. */
const withoutNat = ({ header, records }: Recorded): Recorded => ({
  header: {
    ...header,
    plan: header.plan.map((entry) =>
      NAT.has(entry.point) ? { point: entry.point, mechanism: null, where: '' } : entry,
    ),
  },
  records: records.filter(({ point }) => point === null || !NAT.has(point)),
});

/** As a recording has it that began after the first event that `isLast` says. */
function begunAfter({ header, records }: Recorded, isLast: (record: Record) => boolean): Recorded {
  const last = records.findIndex(isLast);
  assert.ok(last > 0);
  return { header, records: records.filter(({ point }, i) => point === null || i > last) };
}

const findingsOf = ({ header, records }: Recorded): Finding[] => {
  const { findings } = reportOf(header, records);
  for (const finding of findings) {
    const { verdict, confidence, loweredFor, prediction, bypass, summary } = finding;
    assert.equal(verdict, 'double-snat');
    assert.equal(confidence === 'proved', loweredFor.length === 0, JSON.stringify(loweredFor));
    // who got through without a mark was met by no rule that asks for none
    if (bypass?.why !== 'rehash') continue;
    assert.notEqual(prediction?.recoverAtMs, 'never');
    assert.doesNotMatch(summary, /asks for no mark/);
  }
  return findings;
};

const unmarked = (findings: Finding[]) =>
  findings.filter(({ attempts }) => attempts[0]?.mark === 0);
const claimsOf = ({ chain }: Finding) => chain.map(({ claim }) => claim);

for (const [name, path, claim] of [
  ['the entry of another', SHARED, 'entry-of-another'],
  ['a port that another has', TAKEN, 'outer-port-taken'],
] as const)
  describe(`an unmarked packet that came to ${name}`, () => {
    test('is proved to have, where all was seen', async () => {
      const strangers = unmarked(findingsOf(await recordedAt(path)));
      assert.ok(strangers.length > 0);
      for (const finding of strangers) {
        assert.ok(claimsOf(finding).includes(claim));
        assert.equal(finding.confidence, 'proved');
      }
    });

    test('is told so without the rules', async () => {
      for (const finding of unmarked(findingsOf(withoutRules(await recordedAt(path))))) {
        assert.ok(claimsOf(finding).includes(claim));
        // a rule that asks for no mark would give another port too
        assert.equal(finding.confidence, claim === 'outer-port-taken' ? 'likely' : 'proved');
      }
    });

    test('is likely to have, where NAT’s hooks are not seen', async () => {
      for (const finding of unmarked(findingsOf(withoutNat(await recordedAt(path)))))
        assert.equal(finding.confidence, claim === 'outer-port-taken' ? 'proved' : 'likely');
    });

    test('is not proved to have, where the other was not seen', async () => {
      const whole = await recordedAt(path);
      const [stranger] = unmarked(findingsOf(whole));
      const evidence = stranger!.chain.find((each) => each.claim === claim)!.evidence;
      const other = whole.records[Math.min(...evidence.map(({ seq }) => seq))]!;
      // up to the last of the other's packets before the stranger's
      const first = Math.max(...evidence.map(({ seq }) => seq));
      const cut = begunAfter(whole, (record) => record.time > other.time + 50_000);
      assert.ok(whole.records.indexOf(cut.records.at(-1)!) > first);
      for (const recorded of [
        cut,
        withoutRules(cut),
        withoutNat(cut),
        withoutNat(withoutRules(cut)),
      ])
        for (const finding of unmarked(findingsOf(recorded)))
          if (finding.attempts[0]?.outerConntrack?.id === stranger!.attempts[0]?.outerConntrack?.id)
            assert.equal(finding.confidence, 'likely', finding.summary);
    });
  });

test('a connect of which the first SYN is missing is not said to have met another flow', async () => {
  const whole = await recordedAt(ALONE);
  const cut = begunAfter(whole, ({ point }) => point === 'tcp.retransmit');
  for (const recorded of [cut, withoutRules(cut), withoutNat(cut), withoutNat(withoutRules(cut))])
    for (const finding of findingsOf(recorded)) {
      assert.equal(finding.confidence, 'likely');
      assert.ok(!claimsOf(finding).includes('outer-port-taken'), finding.summary);
      assert.doesNotMatch(finding.summary, /another flow/);
    }
});
