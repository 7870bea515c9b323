import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import { AT } from '../../src/event/cursor.js';
import { decodeFact, encodeFact } from '../../src/event/fact.js';
import { faults, recordedAt, reportOf } from './altered.js';

const KERNELS = new URL('../../../sessions/', import.meta.url);

const sessionOf = (verdict: string) => recordedAt(`src/faults/${verdict}/session.skbw`);

for (const { verdict } of faults) {
  test(`${verdict}: with events lost meanwhile nothing is proved`, async () => {
    const { header, records } = await sessionOf(verdict);
    const events = records.filter(({ point }) => point !== null);
    let sawLoss = false;
    for (const at of [0, 0.25, 0.5, 0.75, 1]) {
      const { time } = events[Math.floor(at * (events.length - 1))]!;
      // told within a second and a half of the loss
      const told = time + 1e9;
      const lost = { fact: 'lost', ring: { 0: 3 }, missed: {} } as const;
      const after = records.findIndex((record) => record.time > told);
      const { findings } = reportOf(
        header,
        records.toSpliced(after < 0 ? records.length : after, 0, {
          ...{ bytes: encodeFact(lost, told), time: told, point: null, fact: 'lost' },
        }),
      );
      const inWindow = findings.filter(({ lostEvents }) => lostEvents > 0);
      sawLoss ||= inWindow.length > 0;
      for (const { confidence, loweredFor } of inWindow) {
        assert.notEqual(confidence, 'proved');
        assert.ok(loweredFor.some((why) => why.startsWith('3 events were lost')));
      }
    }
    // what may only be said where nothing was lost is not said at all then
    assert.ok(sawLoss || verdict === 'lost-on-the-wire');
  });

  test(`${verdict}: with a point missing nothing is proved that it would have shown`, async () => {
    const { header, records } = await sessionOf(verdict);
    const { findings: all } = reportOf(header, records);
    const whole = all.find((f) => f.verdict === verdict)!;
    const verdicts = new Set(all.map((finding) => finding.verdict));
    for (const { point } of header.plan) {
      const plan = header.plan.map((entry) =>
        entry.point === point ? { ...entry, mechanism: null, reason: 'taken away' } : entry,
      );
      const rest = records.filter((record) => record.point !== point);
      const { findings } = reportOf({ ...header, plan }, rest);
      for (const finding of findings) {
        // what is not seen is no other fault
        assert.ok(verdicts.has(finding.verdict), `${finding.verdict} without ${point}`);
        if (finding.verdict !== verdict || finding.confidence !== 'proved') continue;
        assert.deepEqual(finding.loweredFor, []);
        // what only it had shown is not claimed, or shown by others
        for (const { claim, evidence } of finding.chain)
          assert.ok(evidence.length > 0, `${claim} without ${point}`);
        // a drop that was the proof was not seen
        const onlyDrops = whole.chain.some(
          ({ evidence }) =>
            evidence.length > 0 &&
            evidence.every(({ seq }) => records[seq]!.point === 'packet.drop'),
        );
        assert.ok(point !== 'packet.drop' || !onlyDrops, `${verdict} without ${point}`);
      }
    }
  });
}

for (const file of readdirSync(KERNELS).filter((name) => name.endsWith('.skbw')))
  test(`${file}: with points missing, one or all at functions, no other fault is found`, async () => {
    const { header, records } = await recordedAt(`sessions/${file}`);
    const all = reportOf(header, records).findings;
    const verdicts = new Set(all.map(({ verdict }) => verdict));
    const points = header.plan.map(({ point }) => new Set<string>([point]));
    const clients = new Set(
      records.flatMap(({ fact, bytes }) => {
        const known = fact === 'netns' ? decodeFact(bytes, 0) : null;
        return known?.fact === 'netns' && /-(client|pod)\d*$/.test(known.name) ? known.netns : [];
      }),
    );
    const atFunctions = header.plan.filter(({ mechanism }) =>
      /^(fentry|kprobe)$/.test(`${mechanism}`),
    );
    for (const missing of [...points, new Set<string>(atFunctions.map(({ point }) => point))]) {
      const plan = header.plan.map((entry) =>
        missing.has(entry.point) ? { ...entry, mechanism: null, reason: 'taken away' } : entry,
      );
      const rest = records.filter(({ point }) => point === null || !missing.has(point));
      // as who traces the node alone, too
      const onNodes = rest.filter(
        ({ point, bytes }) => point === null || !clients.has(bytes.readUInt32LE(AT.netns)),
      );
      for (const seen of [rest, onNodes])
        for (const { verdict, subject } of reportOf({ ...header, plan }, seen).findings)
          assert.ok(
            verdicts.has(verdict) || (seen === onNodes && verdict === 'lost-on-the-wire'),
            `${verdict} of ${subject.client} without ${[...missing].join(', ')}`,
          );
    }
  });

test('a connect of which nobody saw that it stood has ended nevertheless, and is not proved', async () => {
  const { header, records } = await sessionOf('double-snat');
  const [SYN_SENT, ESTABLISHED, CLOSE] = [2, 1, 7];
  const whole = reportOf(header, records).findings[0]!;
  assert.equal(whole.confidence, 'proved');
  let unseen = 0;
  for (const record of records) {
    const { bytes, point } = record;
    if (point !== 'socket.state' || bytes[AT.old_state] !== SYN_SENT) continue;
    record.bytes = Buffer.from(bytes);
    record.bytes[AT.old_state] = ESTABLISHED;
    record.bytes[AT.new_state] = CLOSE;
    unseen++;
  }
  assert.ok(unseen > 0);
  const { findings } = reportOf(header, records);
  const finding = findings.find(({ subject }) => subject.client === whole.subject.client)!;
  assert.equal(finding.verdict, 'double-snat');
  assert.equal(finding.outcome, 'recovered');
  assert.ok(Math.abs(finding.delayMs - whole.delayMs) < 1, `${finding.delayMs} ms`);
  assert.equal(finding.confidence, 'likely');
  assert.ok(finding.loweredFor.includes('1 event was lost while it lasted'));
});

test('who asks the same without end is judged by what he asked first', async () => {
  const { header, records } = await sessionOf('conntrack-insert-race');
  const query = records.find(({ point }) => point === 'device.transmit')!;
  const REPEATS = 100_000;
  const copies = Array.from({ length: REPEATS }, (_, i) => {
    const bytes = Buffer.from(query.bytes);
    const time = query.time + (i + 1) * 1000;
    bytes.writeBigUInt64LE(BigInt(time), AT.time);
    return { ...query, bytes, time };
  });
  const at = records.indexOf(query);
  const started = performance.now();
  reportOf(header, records.slice(0, at + 1));
  const few = performance.now() - started;
  const { findings, unexplained } = reportOf(header, [...records.slice(0, at + 1), ...copies]);
  const many = performance.now() - started - few;
  assert.ok(many < 30_000, `${many} ms`);
  for (const { attempts } of [...findings, ...unexplained]) assert.ok(attempts.length <= 128);
});
