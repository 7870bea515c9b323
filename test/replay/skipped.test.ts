import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AT } from '../../src/event/cursor.js';
import { EVENT_SKIPPED, EVENT_THINNED } from '../../src/event/flags.js';
import { Point } from '../../src/event/point.js';
import { Metrics } from '../../src/stream/metrics.js';
import { recordedAt, reportOf, type Record } from './altered.js';

/** What passes from one node to the next does so within this time, ns. */
const SOFTIRQ = 1e6;

/** As device.receive tells of it, later, when the kernel ran no program at a tracepoint meanwhile. */
function toldInPrerouting(record: Record, flags: number): Record {
  const bytes = Buffer.from(record.bytes);
  bytes[AT.point] = Point['device.receive'];
  bytes[AT.flags]! |= EVENT_SKIPPED | flags;
  return { ...record, bytes, point: 'device.receive' };
}

const isNear = (time: number) => (record: Record) => Math.abs(record.time - time) < SOFTIRQ;
/** TCP_ESTABLISHED, include/net/tcp_states.h */
const ESTABLISHED = 1;
/** Points that programs at tracepoints tell of. */
const isTraced = ({ point }: Record) => point !== null && !/^(nat|mark)\./.test(point);

test('a SYN that passed while the kernel ran no program at a tracepoint leaves its finding likely', async () => {
  const { header, records } = await recordedAt('src/faults/policy-drop/session.skbw');
  const whole = reportOf(header, records);
  const second = records.filter(({ point }) => point === 'packet.drop')[1]!;
  const arrival = records.find((r) => isNear(second.time)(r) && r.point === 'device.receive')!;
  const seen = records.flatMap((record) => {
    if (record === arrival) return [toldInPrerouting(record, 0)];
    return isTraced(record) && isNear(second.time)(record) ? [] : [record];
  });
  const report = reportOf(header, seen);
  assert.deepEqual(whole.lost, { ring: 0, missed: 0, exchanges: 0 });
  assert.deepEqual(report.lost, { ring: 0, missed: 1, exchanges: 0 });
  const [before, finding] = [whole.findings[0]!, report.findings[0]!];
  assert.deepEqual([before.verdict, before.confidence], ['policy-drop', 'proved']);
  assert.deepEqual([finding.verdict, finding.confidence], ['policy-drop', 'likely']);
  // its departure and its arrival
  assert.equal(finding.lostEvents, 2);
  assert.deepEqual(finding.loweredFor, ['2 events were lost while it lasted']);
  assert.deepEqual(
    finding.attempts.map(({ fate }) => fate),
    before.attempts.map(({ fate }, i) => (i === 1 ? 'unknown' : fate)),
  );
  const metrics = new Metrics(header);
  seen.forEach(({ bytes }, firstSeq) => metrics.count({ firstSeq, count: 1, bytes }));
  assert.match((await metrics.text()).text, /^skbwhy_lost_events_total{where="program"} 1$/m);
});

test('so does one that came, and was not seen to leave', async () => {
  const { header, records } = await recordedAt('src/faults/double-snat/session.skbw');
  const again = records.find(({ point }) => point === 'tcp.retransmit')!;
  const sender = again.bytes.readUInt32LE(AT.netns);
  const report = reportOf(
    header,
    records.filter(
      (record) =>
        !isTraced(record) ||
        record.point === 'socket.state' ||
        record.bytes.readUInt32LE(AT.netns) !== sender ||
        !isNear(again.time)(record),
    ),
  );
  const [finding] = report.findings;
  assert.equal(finding?.verdict, 'double-snat');
  assert.deepEqual([finding.confidence, finding.lostEvents], ['likely', 1]);
  assert.deepEqual(
    finding.attempts.map(({ fate }) => fate),
    ['dropped', 'delivered'],
  );
});

test('so does a segment of a connection that stands', async () => {
  const { header, records } = await recordedAt('src/faults/tunnel-mtu/session.skbw');
  const { attempts, subject } = reportOf(header, records).findings[0]!;
  assert.equal(subject.kind, 'tcp-transfer');
  assert.ok(attempts.length > 2 && attempts.every(({ fate }) => fate === 'dropped'));
  // each time the segment, and just before it what tells its sender so
  const drops = records.filter(({ point }) => point === 'packet.drop');
  const [error, segment] = drops.slice(4, 6) as [Record, Record];
  assert.ok(isNear(segment.time)(error));
  const report = reportOf(
    header,
    records.flatMap((record) => {
      if (record === segment) return [toldInPrerouting(record, EVENT_THINNED)];
      return record === error ? [] : [record];
    }),
  );
  const finding = report.findings[0]!;
  assert.equal(report.lost.missed, 1);
  assert.equal(finding.verdict, 'tunnel-mtu');
  assert.equal(finding.confidence, 'likely');
  assert.deepEqual(
    finding.attempts.map(({ fate }) => fate),
    attempts.map(({ fate }, i) => (i === 2 ? 'unknown' : fate)),
  );
});

test('a packet that passes a place twice is one packet', async () => {
  const { header, records } = await recordedAt('src/faults/policy-drop/session.skbw');
  const whole = reportOf(header, records);
  const twice = records.flatMap((record) =>
    record.point === 'device.receive' ? [record, { ...record }] : [record],
  );
  assert.deepEqual(
    reportOf(header, twice).findings.map(({ verdict, confidence, lostEvents, attempts }) => ({
      ...{ verdict, confidence, lostEvents },
      attempts: attempts.map(({ fate }) => fate),
    })),
    whole.findings.map(({ verdict, confidence, attempts }) => ({
      ...{ verdict, confidence, lostEvents: 0 },
      attempts: attempts.map(({ fate }) => fate),
    })),
  );
});

test('an ICMP error whose arrival was told in PREROUTING counts as an error', async () => {
  const { header, records } = await recordedAt('src/faults/tunnel-mtu/session.skbw');
  // its drop stands for its arrival: an error about the segment, of which only some are recorded
  const errors = records.filter(
    ({ bytes, point }) => point === 'packet.drop' && bytes[AT.flags] === EVENT_THINNED,
  );
  assert.equal(errors.length, 4);
  const report = reportOf(
    header,
    records.map((record) => (errors.includes(record) ? toldInPrerouting(record, 0) : record)),
  );
  assert.equal(report.lost.missed, 4);
  assert.equal(report.findings[0]?.lostEvents, 4);
  assert.notEqual(report.findings[0]?.confidence, 'proved');
});

test('a healthy connect whose end was not seen is nothing to report', async () => {
  const { header, records } = await recordedAt('src/faults/policy-drop/session.skbw');
  const whole = reportOf(header, records);
  // the healthy one's SYN-ACK comes back to its client
  const ends = records.filter(
    (record) => record.point === 'socket.state' && record.bytes[AT.new_state] === ESTABLISHED,
  );
  assert.ok(ends.length > 0);
  const answer = records.findLast(
    (record) => record.point === 'device.receive' && record.time < ends[0]!.time,
  )!;
  const report = reportOf(
    header,
    records.flatMap((record) => {
      if (record === answer) return [toldInPrerouting(record, 0)];
      return record.point === 'socket.state' &&
        record.time > answer.time &&
        isNear(answer.time)(record)
        ? []
        : [record];
    }),
  );
  assert.deepEqual(report.unexplained, []);
  assert.equal(report.findings.length, whole.findings.length);
});
