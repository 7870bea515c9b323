import { AT, Cursor } from '../../src/event/cursor.js';
import { encodeFact } from '../../src/event/fact.js';
import { Headers, tupleKey } from '../../src/event/headers.js';
import { Point } from '../../src/event/point.js';
import { IPS_CONFIRMED } from '../../src/explain/observation.js';
import { IPS_NAT_CLASH } from '../../src/explain/insertion.js';
import type { Batch, Session, SessionHeader } from '../../src/session/session.js';

const IPS_FIXED_TIMEOUT = 1 << 10;
const LOCATION = 0xffffffff81000000n;
const UNKNOWN = 0xffffffff;

/**
 * What a kernel before 5.7 would have recorded of a clash that this session's kernel resolved by
 * keeping both entries: the loser's packet, about to leave, is a drop of nf_hook_slow's whose entry is
 * not in the table, and the answer to it never comes.
 * @param sameTuple both were translated alike, which only kernels before 4.19 drop
 */
export async function onOlderKernel(session: Session, sameTuple = false): Promise<Session> {
  const records: { bytes: Buffer; time: number }[] = [];
  const cursor = new Cursor();
  for await (const batch of session) {
    cursor.reset(batch.bytes, batch.firstSeq);
    while (cursor.next())
      records.push({
        bytes: Buffer.from(batch.bytes.subarray(cursor.base, cursor.base + cursor.size)),
        time: cursor.time,
      });
  }
  const reason = Object.entries(session.header.reasons).find(([, n]) => n === 'NETFILTER_DROP')![0];
  const winners = new Map<string, Buffer>();
  const losers = new Set<string>();
  const headers = new Headers();
  const out: Buffer[] = [];
  for (const { bytes, time } of records) {
    cursor.reset(bytes, 0).next();
    const status = cursor.isFact || cursor.ct === 0 ? 0 : cursor.ctStatus;
    const original = status === 0 ? '' : tupleKey(bytes, AT.original);
    if ((status & IPS_NAT_CLASH) !== 0) {
      losers.add(tupleKey(bytes, AT.reply));
      bytes[AT.point] = Point['packet.drop'];
      bytes.writeUInt32LE(Number(reason), AT.reason);
      bytes.writeBigUInt64LE(LOCATION, AT.location);
      bytes.writeUInt32LE(
        status & ~(IPS_NAT_CLASH | IPS_FIXED_TIMEOUT | IPS_CONFIRMED),
        AT.ct_status,
      );
      bytes.writeUInt32LE(UNKNOWN, AT.ct_timeout);
      if (sameTuple) winners.get(original)?.copy(bytes, AT.reply);
      if (losers.size === 1)
        out.push(
          encodeFact(
            { fact: 'symbol', address: `0x${LOCATION.toString(16)}`, name: 'nf_hook_slow+0x7d' },
            time,
          ),
        );
    } else if ((status & IPS_CONFIRMED) !== 0)
      winners.set(original, bytes.subarray(AT.reply, AT.reply + 40));
    if (!cursor.isFact && headers.parse(bytes, AT.packet, cursor.packetLength, false))
      if (losers.has(headers.flow.key(bytes))) continue;
    out.push(bytes);
  }
  const header: SessionHeader = {
    ...session.header,
    id: `${session.header.id}-constructed`,
    node: 'constructed',
    kernel: { ...session.header.kernel, release: '5.6, constructed' },
  };
  const batch: Batch = { firstSeq: 0, count: out.length, bytes: Buffer.concat(out) };
  return {
    header,
    close: () => Promise.resolve(),
    async *[Symbol.asyncIterator]() {
      yield await Promise.resolve(batch);
    },
  };
}
