import { AT } from '../../event/cursor.js';
import { formatEndpoint, keyEndpoints, reverseKey, tupleKey } from '../../event/headers.js';
import type { Case } from '../diagnose.js';
import type { Subject } from '../finding.js';
import { IPS_DST_NAT } from '../exchanges/observation.js';

/** Who talked to whom, as far as an exchange's events tell. */
export function subjectOf(exchange: Case): Subject {
  const { observations, world } = exchange;
  const socket = observations.find((o) => o.point === 'socket.state' && o.oldState !== SYN_RECV);
  const plain = observations.filter((o) => !o.tunnel && o.ct);
  const translated = plain.find((o) => (o.ct!.status & IPS_DST_NAT) !== 0) ?? plain[0];
  const first = observations.find((o) => o.headers.flow.l4 >= 0);
  let client: string;
  let service: string | null = null;
  let backend: string | null = null;
  if (translated?.ct) {
    const { original, replyKey, status } = translated.ct;
    client = formatEndpoint(original.source);
    service = formatEndpoint(original.destination);
    if (status & IPS_DST_NAT)
      backend = formatEndpoint(keyEndpoints(reverseKey(replyKey)).destination);
  } else if (first) {
    const { flow } = first.headers;
    const ends = { source: flow.source(first.record), destination: flow.destination(first.record) };
    [client, service] = clientFirst(exchange, ends);
    // Seen only after the translation, as on the receiving node.
    if (first.tunnel) [service, backend] = [null, service];
  } else {
    const told = socket ?? observations.find((o) => o.point === 'tcp.retransmit');
    if (told) [client, service] = clientFirst(exchange, socketFlow(told.record));
    else client = 'unknown';
  }

  const pid = socket?.pid || null;
  const process = pid === null ? null : world.process(pid);
  const inTunnel = observations.find((o) => o.tunnel && o.headers.tunnel >= 0);
  const entry = observations.find(
    (o) => o.point === 'tunnel.transmit' || o.point === 'tunnel.receive',
  );
  const device = entry?.world.device(entry.netns, entry.ifindex)?.fact;
  return {
    kind: exchange.kind,
    name: exchange.queries[0]?.name ?? null,
    client,
    service,
    backend,
    tunnel: inTunnel
      ? {
          device: device?.name ?? null,
          kind: device?.tunnel?.kind ?? 'vxlan',
          vni: inTunnel.headers.vni,
          port: inTunnel.headers.outer.dport,
          local: inTunnel.headers.outer.source(inTunnel.record).address,
          remote: inTunnel.headers.outer.destination(inTunnel.record).address,
        }
      : null,
    netns: world.netnsName(exchange.netns),
    pid,
    command: process?.command ?? (socket ? socket.comm || null : null),
    container: process?.container ?? null,
    pod: process?.pod ?? null,
  };
}

const SYN_RECV = 3;

/** Client and server: of a stalled connection either end may be the first that is seen; servers have the lower port. */
function clientFirst(
  { kind }: Case,
  { source, destination }: ReturnType<typeof keyEndpoints>,
): [string, string] {
  const ends: [string, string] = [formatEndpoint(source), formatEndpoint(destination)];
  return kind === 'tcp-transfer' && source.port < destination.port ? [ends[1], ends[0]] : ends;
}

function socketFlow(record: Buffer): ReturnType<typeof keyEndpoints> {
  return keyEndpoints(tupleKey(record, AT['socket.flow']));
}
