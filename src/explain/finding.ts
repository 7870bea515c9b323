/** The JSON contract of findings: stable, see docs in README. Times in ms unless a name says otherwise. */

/** A record that proves something: its running number in a session. */
export interface Evidence {
  session: string;
  seq: number;
}

export interface Claim {
  /** kebab-case, stable */
  claim: string;
  text: string;
  evidence: Evidence[];
}

export interface RuledOut {
  verdict: string;
  text: string;
  evidence: Evidence[];
}

export interface Remedy {
  what: string;
  /** null where no command does it */
  command: string | null;
  source: string;
}

export interface Subject {
  kind: 'tcp-connect' | 'tcp-transfer' | 'dns-lookup';
  /** the name looked up first, null for TCP */
  name: string | null;
  /** `address:port` each; null where not known */
  client: string;
  service: string | null;
  backend: string | null;
  tunnel: {
    device: string | null;
    kind: string;
    vni: number;
    port: number;
    local: string;
    remote: string;
  } | null;
  /** namespace in which the exchange was first seen */
  netns: string;
  pid: number | null;
  command: string | null;
  container: string | null;
  pod: string | null;
}

/** Names of the device that received a packet last and the one that it was to leave by. */
export interface Passage {
  from: string;
  to: string;
}

export interface FindingAttempt {
  n: number;
  /** what it sends: `SYN`, or a query: `A example.com` */
  what: string;
  atMs: number;
  /** skb mark on entering the tunnel */
  mark: number | null;
  hash: number | null;
  outerPort: { expected: number | null; wire: number | null } | null;
  outerConntrack: {
    /** equal for the same entry, whichever attempt or finding met it */
    id: string;
    state: 'new' | 'existing';
    snat: boolean;
    /** since it was first seen; null: it was there before that */
    ageMs: number | null;
  } | null;
  /**
   * of the outer UDP header, `before` the second source NAT; of whatever header a device spoiled,
   * `before` it came there. null where not seen
   */
  checksum: { before: number | null; after: number; expected: number | null } | null;
  fate: 'delivered' | 'dropped' | 'drop-expected' | 'unknown';
  dropReason: string | null;
  dropLocation: string | null;
  /** told where a drop's place on its way through the namespace is known */
  dropBetween?: Passage;
}

export type BypassReason =
  'rehash' | 'conntrack-expired' | 'conntrack-deleted' | 'rules-changed' | 'offload-changed';

export type Confidence = 'proved' | 'likely' | 'possible';
export type Outcome = 'pending' | 'recovered' | 'failed';

/** When an exchange gets through, by the settings alone, and when it did. */
export interface Prediction {
  /** `never`: no attempt of the schedule gets through; null: the settings needed are not known */
  recoverAtMs: number | 'never' | null;
  observedMs: number | null;
  text: string;
}

/** What a fault's diagnosis says of an exchange; the explainer adds the rest of the finding. */
export interface Diagnosis {
  verdict: string;
  defect?: string;
  title: string;
  /** two or three sentences for people */
  summary: string;
  /** equal for findings with one root */
  cause: string;
  confidence: Confidence;
  /** why the confidence is not `proved`, one sentence each */
  loweredFor: string[];
  subject: Subject;
  attempts: FindingAttempt[];
  bypass: { attempt: number; why: BypassReason; text: string } | null;
  prediction: Prediction | null;
  chain: Claim[];
  ruledOut: RuledOut[];
  remedies: Remedy[];
}

export interface Finding extends Diagnosis {
  id: string;
  /** counts from 1 */
  revision: number;
  /** ISO 8601 */
  startedAt: string;
  delayMs: number;
  outcome: Outcome;
  /** counters that rose meanwhile in the namespaces that it passed; whatever moved them */
  counters: CounterRise[];
  /** events lost while the exchange lasted */
  lostEvents: number;
}

/** A counter before an exchange and after it. */
export interface CounterRise {
  /** as in counters facts: `conntrack.drop`, `Udp.RcvbufErrors`, `device.eth0.tx_drop` */
  name: string;
  /** what it counts */
  meaning: string;
  /** null: it is one count for the whole node */
  netns: string | null;
  from: number;
  to: number;
  rise: number;
  /** when the two samples came, from the start of the exchange */
  betweenMs: [number, number];
  /** the two samples */
  evidence: Evidence[];
}

/** An exchange that failed or was slow without a verdict. */
export interface Unexplained {
  id: string;
  subject: Subject;
  startedAt: string;
  delayMs: number;
  outcome: Outcome;
  title: string;
  attempts: {
    n: number;
    /** `SYN`, or a query: `A example.com` */
    what: string;
    atMs: number;
    lastSeen: string;
    drop: string | null;
    evidence: Evidence[];
  }[];
  excluded: string[];
  next: string[];
  lostEvents: number;
}

export interface SessionSummary {
  id: string;
  node: string;
  kernel: string;
  startedAt: string;
  durationMs: number;
  records: number;
  events: number;
  /** how a file ended before its end, null when it did not */
  truncated: string | null;
  /** kinds of hooks it was traced by */
  mechanisms: string[];
  /** points that were not attached although no connect can be judged without them, and why */
  blind: { point: string; reason: string }[];
  /** points that were not attached, and why; not those that no kernel has hooks for */
  notAttached: { point: string; reason: string }[];
}

export interface Lost {
  /** events that found the ring full */
  ring: number;
  /** program runs the kernel skipped */
  missed: number;
  /** exchanges forgotten because too many were open at once, or whose end was among the lost events */
  exchanges: number;
}

export interface Report {
  sessions: SessionSummary[];
  findings: Finding[];
  unexplained: Unexplained[];
  /** how many were there before those listed */
  omitted: { findings: number; unexplained: number };
  lost: Lost;
}

/** Exchanges by kind, healthy ones included. */
export type Seen = Readonly<Record<Subject['kind'], number>>;
