import { addressNumber } from '../event/cursor.js';
import { keyEndpoints, reverseKey } from '../event/headers.js';
import type { Case, Entry } from './diagnose.js';
import type { ConntrackEntries, SeenEntry } from './exchanges/conntrack-entries.js';
import type { Conntrack, Observation } from './exchanges/observation.js';
import type { Evidence } from './finding.js';

/** What a diagnosis may ask about conntrack entries, those of other exchanges included. */
export type EntryAnswers = Pick<Case, 'entryOf' | 'rivals' | 'portHolders' | 'deletionOf'>;

/** @param sources the sessions that are explained together, each with the entries of its machine */
export function entryAnswers(
  sources: readonly { readonly id: string; readonly entries: ConntrackEntries }[],
): EntryAnswers {
  const entriesOf = ({ evidence }: Observation): ConntrackEntries =>
    sources.find(({ id }) => id === evidence.session)!.entries;
  const evidenceAt = ({ session, seq }: { session: number; seq: number }): Evidence => ({
    session: sources[session]!.id,
    seq,
  });

  const known = (entry: SeenEntry): Entry => ({
    original: keyEndpoints(entry.originalKey),
    reply: keyEndpoints(entry.replyKey),
    firstSeen: entry.firstSeen,
    lastSeen: entry.lastSeen,
    insertedAt: entry.insertedAt,
    translated: [evidenceAt(entry.translated)],
    inserted: entry.inserted ? [evidenceAt(entry.inserted)] : [],
  });

  return {
    entryOf(observation) {
      const { ct, netns } = observation;
      if (!ct) return null;
      const address = addressOf(ct);
      const seen = entriesOf(observation)
        .having(placeOf(netns, ct), ct.originalKey)
        .findLast((entry) => entry.address === address && entry.replyKey === ct.replyKey);
      return seen ? known(seen) : null;
    },

    rivals(observation, which) {
      const { ct, netns } = observation;
      if (!ct) return [];
      const { originalKey, replyKey } = ct;
      const untranslated = reverseKey(originalKey);
      const tuple = { original: originalKey, reply: replyKey, untranslated }[which];
      const address = addressOf(ct);
      return entriesOf(observation)
        .having(placeOf(netns, ct), tuple)
        .filter((other) =>
          which === 'original'
            ? other.originalKey === tuple && other.address !== address
            : other.replyKey === tuple && other.originalKey !== originalKey,
        )
        .map(known);
    },

    portHolders(observation) {
      const { ct, netns } = observation;
      if (!ct) return [];
      return entriesOf(observation).besides(placeOf(netns, ct), ct.replyKey).map(known);
    },

    deletionOf(observation, to) {
      const { ct, time } = observation;
      if (!ct) return null;
      const { originalKey } = ct;
      const deletion = entriesOf(observation).deletionOf(addressOf(ct), originalKey, time, to);
      return deletion && { time: deletion.time, pid: deletion.pid, evidence: evidenceAt(deletion) };
    },
  };
}

const addressOf = ({ address }: Conntrack): number => addressNumber(BigInt(`0x${address}`));

const placeOf = (netns: number, { zone, protocol }: Conntrack) => ({ netns, zone, protocol });
