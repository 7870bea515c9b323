import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { AT } from '../../src/event/cursor.js';
import type { Finding } from '../../src/explain/finding.js';
import { recordedAt, reportOf, type Record, type Recorded } from './altered.js';

/** Connections whose outer packets came to what another one's second SNAT had left in the table. */
const SHARED = 'sessions/6.18-shared-outer-port-6s.skbw';
const TAKEN = 'sessions/6.18-taken-outer-port-2s.skbw';
/** One connection alone. */
const ALONE = 'sessions/defect-flannel-63s.skbw';

const isNat = ({ point }: Record) =>
  point === 'nat.setup' || point === 'nat.rewrite' || point === 'mark.set';

const without = (
  { header, records }: Recorded,
  isGone: (record: Record, index: number) => boolean,
): Recorded => ({
  header,
  records: records.filter((record, i) => !isGone(record, i)),
});

const withoutRules = (recorded: Recorded) => without(recorded, ({ fact }) => fact === 'rules');

/** As a kernel shows it that takes no programs at NAT's hooks. */
const withoutNat = (recorded: Recorded): Recorded => ({
  ...without(recorded, isNat),
  header: {
    ...recorded.header,
    plan: recorded.header.plan.map((entry) =>
      entry.point.startsWith('nat.') || entry.point === 'mark.set'
        ? { point: entry.point, mechanism: null, where: '' }
        : entry,
    ),
  },
});

/** As a recording has it that began with that event. */
const begunAt = (recorded: Recorded, first: number) =>
  without(recorded, ({ point }, i) => point !== null && i < first);

/** The same, seen by less and less. */
const dimmed = (recorded: Recorded) => [
  recorded,
  withoutRules(recorded),
  withoutNat(recorded),
  withoutNat(withoutRules(recorded)),
];

function findingsOf({ header, records }: Recorded): Finding[] {
  const { findings } = reportOf(header, records);
  assert.ok(findings.length > 0);
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
}

function unmarked(recorded: Recorded): Finding[] {
  const found = findingsOf(recorded).filter(({ attempts }) => attempts[0]?.mark === 0);
  assert.ok(found.length > 0);
  return found;
}

const claimsOf = ({ chain }: Finding) => chain.map(({ claim }) => claim);

/** Where its first packet enters the tunnel. */
function entryAt({ chain }: Finding): number {
  const { evidence } = chain.find(({ claim }) => claim === 'encapsulated-unmarked')!;
  return evidence[0]!.seq;
}

for (const [name, path, claim] of [
  ['the entry of another', SHARED, 'entry-of-another'],
  ['a port that another has', TAKEN, 'outer-port-taken'],
] as const)
  describe(`an unmarked packet that came to ${name}`, () => {
    test('is proved to have, where all was seen', async () => {
      for (const finding of unmarked(await recordedAt(path))) {
        assert.ok(claimsOf(finding).includes(claim));
        assert.equal(finding.confidence, 'proved');
      }
    });

    test('is told so without the rules', async () => {
      for (const finding of unmarked(withoutRules(await recordedAt(path)))) {
        assert.ok(claimsOf(finding).includes(claim));
        // a rule that asks for no mark would give another port too
        assert.equal(finding.confidence, claim === 'outer-port-taken' ? 'likely' : 'proved');
      }
    });

    test('is likely to have, where NAT’s hooks are not seen', async () => {
      for (const finding of unmarked(withoutNat(await recordedAt(path)))) {
        assert.ok(claimsOf(finding).includes(claim));
        assert.equal(finding.confidence, 'likely');
      }
    });

    test('is not proved to have, where the other was not seen', async () => {
      const whole = await recordedAt(path);
      const [stranger] = unmarked(whole);
      for (const recorded of dimmed(begunAt(whole, entryAt(stranger!)))) {
        const { client } = stranger!.subject;
        const finding = findingsOf(recorded).find(({ subject }) => subject.client === client);
        assert.equal(finding?.confidence, 'likely', finding?.summary);
      }
    });
  });

test('who had a port ten minutes ago is not said to have it', async () => {
  const whole = await recordedAt(TAKEN);
  const [stranger] = unmarked(whole);
  const first = entryAt(stranger!);
  const { header, records } = whole;
  for (const { bytes, time } of records.slice(first))
    bytes.writeBigUInt64LE(BigInt(time) + 600_000_000_000n, AT.time);
  for (const recorded of dimmed({ header, records })) {
    const findings = findingsOf(recorded);
    const { client } = stranger!.subject;
    const finding = findings.find(({ subject }) => subject.client === client)!;
    assert.equal(finding.confidence, 'likely', finding.summary);
    assert.doesNotMatch(JSON.stringify(finding.chain), /seen 10 min|seen 60\d/);
  }
});

test('a connect of which the first SYN is missing is not said to have met another flow', async () => {
  const whole = await recordedAt(ALONE);
  const { time } = whole.records.find(({ point }) => point !== null)!;
  const second = whole.records.findIndex((record) => record.time > time + 500e6);
  for (const recorded of dimmed(begunAt(whole, second)))
    for (const finding of findingsOf(recorded)) {
      assert.equal(finding.confidence, 'likely');
      // told from the sender, of the first packet that was seen to leave
      assert.ok(claimsOf(finding).includes('checksum-broken'));
      assert.ok(!claimsOf(finding).includes('outer-port-taken'), finding.summary);
      assert.doesNotMatch(finding.summary, /another flow/);
    }
});

test('a recording that begins in the middle of a packet’s way does not deny the sender', async () => {
  const whole = await recordedAt(ALONE);
  const left = whole.records.findIndex(({ point }) => point === 'tcp.retransmit');
  for (const recorded of dimmed(begunAt(whole, left + 1)))
    for (const { summary } of findingsOf(recorded))
      assert.doesNotMatch(summary, /record there too/);
});

test('where NAT’s hooks were not reached in a namespace, its packets met no old entry for that', async () => {
  const whole = await recordedAt(ALONE);
  const [seen] = findingsOf(whole);
  const [finding] = findingsOf(without(whole, isNat));
  assert.equal(finding?.confidence, 'proved');
  assert.equal(finding.bypass?.why, 'conntrack-expired');
  assert.ok(claimsOf(finding).includes('second-snat'));
  assert.deepEqual(
    finding.attempts.map(({ outerConntrack }) => outerConntrack?.state),
    seen!.attempts.map(({ outerConntrack }) => outerConntrack?.state),
  );
});

test('a repeat that left intact is not said to have been spoiled, though the connect failed', async () => {
  const [SYN_SENT, CLOSE] = [2, 7];
  const whole = await recordedAt('src/faults/double-snat/session.skbw');
  const sender = whole.records.find(({ point }) => point === 'socket.state')!;
  const netns = sender.bytes.readUInt32LE(AT.netns);
  // the peer was not traced, and nothing came back
  const recorded = without(
    whole,
    ({ point, bytes }) =>
      point !== null &&
      (bytes.readUInt32LE(AT.netns) !== netns ||
        point === 'device.receive' ||
        point === 'tunnel.receive'),
  );
  for (const { point, bytes } of recorded.records)
    if (point === 'socket.state' && bytes[AT.old_state] === SYN_SENT) bytes[AT.new_state] = CLOSE;
  const [finding] = findingsOf(recorded);
  assert.equal(finding?.outcome, 'failed');
  assert.match(finding.summary, /SYN 2 left with a right checksum/);
  assert.doesNotMatch(finding.summary, /No retransmission escaped/);
});
