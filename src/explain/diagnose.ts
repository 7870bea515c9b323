import type { Endpoint } from '../event/headers.js';
import type { NameServerTally, Query, Retry } from './exchanges/dns-lookups.js';
import type { Diagnosis, Evidence, Outcome, Subject } from './finding.js';
import type { Observation } from './exchanges/observation.js';
import type { World } from './world.js';

/** What a diagnosis may look at: one exchange, what is known of the machine, and nothing else. */
export interface Case {
  readonly kind: Subject['kind'];
  /** the exchange's events that every kernel can show */
  readonly observations: readonly Observation[];
  /** those at functions, which prove more of the same; see isAtFunction */
  readonly atFunctions: readonly Observation[];
  /** first packet, CLOCK_MONOTONIC ns */
  readonly startedAt: number;
  /** `message`: of a lookup, which of its queries the attempt sends */
  readonly attempts: readonly { readonly startedAt: number; readonly message: number }[];
  /** of a DNS lookup, in the order in which they were first sent; else none */
  readonly queries: readonly Query[];
  /** of a lookup whose answer was truncated: the connection that asks again */
  readonly retry: Retry | null;
  /** of a lookup: the same question, asked by the server that it was delivered to, meanwhile */
  readonly upstream: Upstream | null;
  /** what takes longer than this is slow, ms */
  readonly slowMs: number;
  /** by `address:port`, as clients know it */
  readonly nameServers: Pick<ReadonlyMap<string, NameServerTally>, 'get'>;
  /** where the latest new conntrack entry took a query to a Service (`address:port`); null: none was seen */
  translation(service: string): { backend: string; time: number; evidence: Evidence } | null;
  /** The conntrack entry that the observation's packet bears, from when it was first seen. */
  entryOf(observation: Observation): Entry | null;
  /**
   * The other conntrack entries, of this exchange or any, that were seen with the same original or
   * reply tuple as the observation's, or with the reply tuple that it would have if nothing were
   * translated, in its namespace and zone; the oldest first.
   */
  rivals(observation: Observation, which: 'original' | 'reply' | 'untranslated'): readonly Entry[];
  /**
   * The entries that have, or had, a port of the address that the observation's was translated to,
   * towards the same destination: their replies differ from its own in nothing but that port.
   */
  portHolders(observation: Observation): readonly Entry[];
  /** The end of the conntrack entry that the observation's packet bore, where it was seen before `to`, ns. */
  deletionOf(observation: Observation, to: number): EntryEnd | null;
  /** for whom conntrack entries were seen being made in a namespace, most first; by source address */
  entryMakers(netns: number): readonly { readonly source: string; readonly entries: number }[];
  readonly outcome: Outcome;
  /** CLOCK_MONOTONIC ns, 0 while it lasts */
  readonly endedAt: number;
  /** namespace in which the first packet was seen */
  readonly netns: number;
  /** the machine on which the first packet was seen */
  readonly world: World;
  /** events lost while it lasted */
  readonly lostEvents: number;
  /** was this point attached in any session that saw the exchange? */
  attached(point: string): boolean;
  /** name of a drop reason on the kernel that recorded the observation */
  reasonName(observation: Observation): string;
  /** why that name is not sure: kernels before 5.17 tell no reasons; empty where it is */
  reasonDoubts(observation: Observation): string[];
}

/** A conntrack entry as its packets showed it. Times: CLOCK_MONOTONIC ns. */
export interface Entry {
  readonly original: { readonly source: Endpoint; readonly destination: Endpoint };
  readonly reply: { readonly source: Endpoint; readonly destination: Endpoint };
  readonly firstSeen: number;
  readonly lastSeen: number;
  /** when it was first seen in the table; 0: never */
  readonly insertedAt: number;
  /** what shows its tuples */
  readonly translated: Evidence[];
  /** what shows it in the table */
  readonly inserted: Evidence[];
}

/** How a conntrack entry ended. */
export interface EntryEnd {
  /** CLOCK_MONOTONIC, ns */
  readonly time: number;
  /** netlink port of who asked for it, by custom its pid; 0: the kernel itself */
  readonly pid: number;
  readonly evidence: Evidence;
}

/** A lookup that another one waited for. */
export interface Upstream {
  /** namespace that asked */
  netns: number;
  /** whom it asked, `address:port` */
  server: string | null;
  /** CLOCK_MONOTONIC ns */
  startedAt: number;
  /** 0: not yet */
  answeredAt: number;
  evidence: Evidence[];
}

/** A known cause: looks at one exchange and says whether it explains it. */
export interface Diagnoser {
  readonly verdict: string;
  /** kinds of exchange that it knows about; connects and lookups if not told */
  readonly kinds?: readonly Subject['kind'][];
  /** null: not this; called again when more is known */
  diagnose(exchange: Case): Diagnosis | null;
}
