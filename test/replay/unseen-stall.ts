import { AT } from '../../src/event/cursor.js';
import { decodeFact } from '../../src/event/fact.js';
import { recordedAt, type Recorded } from './altered.js';

/** A connection whose data is too long for a tunnel, as it is seen who traces only the client's namespace. */
export async function unseenStall(): Promise<Recorded> {
  const { header, records } = await recordedAt('src/faults/tunnel-mtu/session.skbw');
  const facts = records.flatMap(({ bytes, fact }) => (fact === null ? [] : decodeFact(bytes, 0)));
  const client = facts.find((fact) => fact.fact === 'netns' && fact.name.endsWith('-client'));
  if (client?.fact !== 'netns') throw new Error('the recording has no client');
  return {
    header,
    records: records.filter(
      ({ point, bytes }) => point === null || bytes.readUInt32LE(AT.netns) === client.netns,
    ),
  };
}
