import { AT, Cursor } from '../event/cursor.js';
import type { Tunnel } from '../event/fact.js';
import { EVENT_TUNNEL } from '../event/flags.js';
import { Headers, IPPROTO_UDP, keyEndpoints, tupleKey } from '../event/headers.js';
import type { Diagnoser } from '../explain/diagnose.js';
import { Explainer } from '../explain/explainer.js';
import type { Finding, Report } from '../explain/finding.js';
import { World } from '../explain/world.js';
import type { FileSession } from '../session/file-reader.js';

/** What an event proves. */
export interface Proof {
  finding: Finding;
  claim: string;
  text: string;
}

/** What one has to know of a whole session before its first record can be written out. */
export interface Survey {
  /** names of namespaces, devices and functions, which may be learnt after they are met */
  world: World;
  report: Report;
  /** by the record's running number */
  proofs: ReadonlyMap<number, readonly Proof[]>;
  records: number;
  /** events that bear a packet */
  packets: number;
  /** kind of the tunnels by UDP port */
  tunnelPorts: ReadonlyMap<number, Tunnel['kind']>;
  /** UDP ports other than 53 where DNS servers behind a Service were seen */
  dnsPorts: ReadonlySet<number>;
}

const DNS = 53;

/** Reads a session once, from start to end; what it keeps does not grow with the healthy traffic. */
export async function survey(
  session: FileSession,
  diagnosers: readonly Diagnoser[],
  onBatch: () => void = () => undefined,
): Promise<Survey> {
  const explainer = new Explainer(session.header, diagnosers);
  const world = new World();
  const headers = new Headers();
  const cursor = new Cursor();
  const tunnelPorts = new Map<number, Tunnel['kind']>();
  const dnsPorts = new Set<number>();
  let records = 0;
  let packets = 0;
  for await (const batch of session) {
    explainer.feed(batch);
    cursor.reset(batch.bytes, batch.firstSeq);
    while (cursor.next()) {
      records++;
      if (cursor.isFact) {
        const fact = cursor.fact();
        world.learn(fact, cursor.time, { session: session.header.id, seq: cursor.seq });
        if (fact.fact === 'device' && fact.tunnel)
          tunnelPorts.set(fact.tunnel.port, fact.tunnel.kind);
      } else if (cursor.isEvent && cursor.packetLength > 0) {
        packets++;
        const port = translatedDnsPort(cursor, headers);
        if (port !== null) dnsPorts.add(port);
      }
    }
    onBatch();
  }
  explainer.finish();
  const report = explainer.report();
  report.sessions[0]!.truncated = session.truncated?.message ?? null;
  return {
    world,
    report,
    proofs: proofsOf(report.findings, session.header.id),
    records,
    packets,
    tunnelPorts,
    dnsPorts,
  };
}

/** The backend's port of a UDP packet that was only recorded because its Service's port is 53. */
function translatedDnsPort(cursor: Cursor, headers: Headers): number | null {
  if (cursor.flags & EVENT_TUNNEL || cursor.ct === 0) return null;
  if (!headers.parse(cursor.bytes, cursor.base + AT.packet, cursor.packetLength, false))
    return null;
  const { outer } = headers;
  if (outer.protocol !== IPPROTO_UDP || outer.l4 < 0) return null;
  if (outer.sport === DNS || outer.dport === DNS) return null;
  const original = tupleKey(cursor.bytes, cursor.base + AT.original);
  const reply = tupleKey(cursor.bytes, cursor.base + AT.reply);
  if (original === '' || reply === '' || keyEndpoints(original).destination.port !== DNS)
    return null;
  return keyEndpoints(reply).source.port;
}

function proofsOf(findings: readonly Finding[], session: string): Map<number, Proof[]> {
  const proofs = new Map<number, Proof[]>();
  for (const finding of findings)
    for (const { claim, text, evidence } of finding.chain)
      for (const each of evidence) {
        if (each.session !== session) continue;
        const known = proofs.get(each.seq);
        if (known) known.push({ finding, claim, text });
        else proofs.set(each.seq, [{ finding, claim, text }]);
      }
  return proofs;
}
