import { AT, type Cursor } from '../../event/cursor.js';
import { EVENT_TUNNEL } from '../../event/flags.js';
import { keyEndpoints, tupleKey, TUPLE_PROTOCOL } from '../../event/headers.js';
import { BoundedMap } from '../bounded-map.js';
import { IPS_CONFIRMED } from './observation.js';

/** Entries remembered; the oldest is forgotten first. */
const MAX_ENTRIES = 32_768;

/** Source addresses counted in one namespace. */
const MAX_MAKERS = 4096;

/** Deletions remembered. */
const MAX_DELETIONS = 4096;

/** A record of one of the sessions that are explained together. */
interface RecordAt {
  session: number;
  seq: number;
}

/** Where a tuple is one of a kind. */
export interface TuplePlace {
  netns: number;
  zone: number;
  protocol: number;
}

/** A conntrack entry, as the packets that bore it show it. Times: CLOCK_MONOTONIC ns. */
export interface SeenEntry {
  readonly netns: number;
  readonly zone: number;
  /** IPPROTO_* */
  readonly protocol: number;
  /** its address: an identity only while it lives */
  readonly address: number;
  readonly originalKey: string;
  /** changes until source NAT is set up */
  replyKey: string;
  readonly firstSeen: number;
  lastSeen: number;
  /** when it was first seen in the table; 0: never */
  insertedAt: number;
  /** the event that shows its final tuples first, and the one that shows it in the table */
  translated: RecordAt;
  inserted: RecordAt | null;
}

/** The end of an entry, as conntrack.delete tells it. */
export interface Deletion extends RecordAt {
  readonly originalKey: string;
  /** CLOCK_MONOTONIC, ns */
  readonly time: number;
  /** netlink port of who asked for it, by custom its pid; 0: the kernel itself */
  readonly pid: number;
}

/**
 * The conntrack entries of the recent past, found by either tuple: who else had the tuple
 * that an entry could not get? Bounded; packets of established entries cost one look-up.
 */
export class ConntrackEntries {
  private readonly byAddress = new Map<number, SeenEntry>();
  private readonly byTuple = new Map<string, SeenEntry[]>();
  /** by namespace and source address: entries seen being made */
  private readonly made = new Map<number, Map<string, number>>();
  /** in the order of their making, in a circle: a Set would walk over its deleted ones every time */
  private readonly all: SeenEntry[] = [];
  private oldest = 0;
  /** by address: the latest */
  private readonly deletions = new BoundedMap<number, Deletion>(MAX_DELETIONS);

  /** Notes the entry that the cursor's packet bears. */
  see(cursor: Cursor, session: number, time: number): void {
    if (cursor.ct === 0) return;
    const { bytes, base } = cursor;
    const confirmed = (cursor.ctStatus & IPS_CONFIRMED) !== 0;
    const originalKey = tupleKey(bytes, base + AT.original);
    const protocol = bytes[base + AT.original + TUPLE_PROTOCOL]!;
    let entry = this.byAddress.get(cursor.ct);
    // Addresses are used again at once: an entry that was in the table and is not, is another one.
    if (
      entry &&
      (entry.originalKey !== originalKey ||
        entry.protocol !== protocol ||
        entry.netns !== cursor.netns ||
        (entry.insertedAt !== 0 && !confirmed))
    )
      entry = undefined;
    if (!entry) {
      entry = {
        netns: cursor.netns,
        zone: cursor.u16(AT.ct_zone),
        protocol,
        address: cursor.ct,
        originalKey,
        replyKey: tupleKey(bytes, base + AT.reply),
        firstSeen: time,
        lastSeen: time,
        insertedAt: 0,
        translated: { session, seq: cursor.seq },
        inserted: null,
      };
      this.add(entry);
    }
    entry.lastSeen = time;
    if (entry.insertedAt !== 0) return;
    const replyKey = tupleKey(bytes, base + AT.reply);
    if (replyKey !== entry.replyKey) {
      this.unlist(entry, entry.replyKey);
      entry.replyKey = replyKey;
      entry.translated = { session, seq: cursor.seq };
      this.list(entry, replyKey);
    }
    if (confirmed) {
      // of a tunnel's not all are seen
      if ((cursor.flags & EVENT_TUNNEL) === 0) this.count(entry);
      entry.insertedAt = time;
      entry.inserted = { session, seq: cursor.seq };
    }
  }

  /** Notes a deletion: conntrack.delete. */
  ends(cursor: Cursor, session: number, time: number): void {
    const originalKey = tupleKey(cursor.bytes, cursor.base + AT.original);
    const { seq } = cursor;
    this.deletions.set(cursor.ct, { session, seq, time, originalKey, pid: cursor.u32(AT.pid) });
  }

  /** How the entry that had this address and original tuple between two moments ended, where it did. */
  deletionOf(address: number, originalKey: string, from: number, to: number): Deletion | null {
    const deletion = this.deletions.get(address);
    return deletion?.originalKey === originalKey && deletion.time >= from && deletion.time <= to
      ? deletion
      : null;
  }

  /** The entries of a place that have this tuple, in either direction, the oldest first. */
  having(place: TuplePlace, tuple: string): readonly SeenEntry[] {
    const list = this.byTuple.get(tuple) ?? [];
    return list.filter((entry) => isOf(entry, place));
  }

  /** The entries that came into the table there and whose replies differ from this tuple at most in the port they go to. */
  besides(place: TuplePlace, reply: string): readonly SeenEntry[] {
    const ends = reply.slice(0, -2);
    return this.all.filter(
      (entry) =>
        entry.insertedAt !== 0 && isOf(entry, place) && entry.replyKey.slice(0, -2) === ends,
    );
  }

  /** How many entries of a namespace were seen being made for each source address, most first. */
  makers(netns: number): { source: string; entries: number }[] {
    return [...(this.made.get(netns) ?? [])]
      .map(([key, entries]) => ({ source: keyAddress(key), entries }))
      .sort((a, b) => b.entries - a.entries);
  }

  private count({ netns, originalKey }: SeenEntry): void {
    let made = this.made.get(netns);
    if (!made) this.made.set(netns, (made = new Map<string, number>()));
    const source = originalKey.slice(0, originalKey.length === 12 ? 4 : 16);
    const entries = made.get(source);
    if (entries !== undefined || made.size < MAX_MAKERS) made.set(source, (entries ?? 0) + 1);
  }

  private add(entry: SeenEntry): void {
    if (this.all.length < MAX_ENTRIES) this.all.push(entry);
    else {
      this.forget(this.all[this.oldest]!);
      this.all[this.oldest] = entry;
      this.oldest = (this.oldest + 1) % MAX_ENTRIES;
    }
    this.byAddress.set(entry.address, entry);
    this.list(entry, entry.originalKey);
    this.list(entry, entry.replyKey);
  }

  private forget(entry: SeenEntry): void {
    if (this.byAddress.get(entry.address) === entry) this.byAddress.delete(entry.address);
    this.unlist(entry, entry.originalKey);
    this.unlist(entry, entry.replyKey);
  }

  private list(entry: SeenEntry, tuple: string): void {
    const list = this.byTuple.get(tuple);
    if (list) list.push(entry);
    else this.byTuple.set(tuple, [entry]);
  }

  private unlist(entry: SeenEntry, tuple: string): void {
    const list = this.byTuple.get(tuple);
    const at = list?.indexOf(entry) ?? -1;
    if (!list || at < 0) return;
    if (list.length === 1) this.byTuple.delete(tuple);
    else list.splice(at, 1);
  }
}

const isOf = (entry: SeenEntry, { netns, zone, protocol }: TuplePlace): boolean =>
  entry.netns === netns && entry.zone === zone && entry.protocol === protocol;

/** An address as a key's first bytes, written out. */
function keyAddress(bytes: string): string {
  return keyEndpoints(bytes + bytes + '\0\0\0\0').source.address;
}
