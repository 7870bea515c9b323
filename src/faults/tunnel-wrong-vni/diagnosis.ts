import type { Case, Diagnoser } from '../../explain/diagnose.js';
import {
  attemptsOf,
  dropText,
  dropsOf,
  evidenceOf,
  outcomeText,
  packetNoun,
} from '../../explain/reading/fates.js';
import type { Claim } from '../../explain/finding.js';
import type { Observation } from '../../explain/exchanges/observation.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { count, duration } from '../../explain/wording.js';

type Defect = 'vni-unknown' | 'port-unknown';

/** A tunnel packet arrived at a node that has no such tunnel. */
export const tunnelWrongVni: Diagnoser = {
  verdict: 'tunnel-wrong-vni',

  diagnose(exchange) {
    const drops = dropsOf(exchange, /^(VXLAN_VNI_NOT_FOUND|NOT_SPECIFIED|NO_SOCKET)$/).filter(
      (o) => defectOf(exchange, o) !== null,
    );
    const first = drops[0];
    const defect = first && defectOf(exchange, first);
    if (!first || !defect) return null;
    const { world, netns, headers, record, time } = first;
    const node = world.netnsName(netns);
    const peer = headers.outer.source(record).address;
    const port = headers.outer.dport;
    const { vni } = headers;
    const noun = packetNoun(exchange, first);
    const subject = subjectOf(exchange);
    const tunnels = world.devicesOf(netns, time).filter(({ fact }) => fact.tunnel);
    const here = tunnels.filter(({ fact }) => fact.tunnel!.port === port);
    const same = (defect === 'vni-unknown' ? here : tunnels).find(
      ({ fact }) => fact.tunnel!.vni === vni,
    );
    const has =
      tunnels.length === 0
        ? `${node} has no tunnel device that was recorded`
        : defect === 'port-unknown'
          ? `the tunnels of ${node} use ${tunnels.map(({ fact }) => `UDP port ${fact.tunnel!.port} (${fact.name}, VNI ${fact.tunnel!.vni})`).join(', ')}`
          : same
            ? `${node} has ${same.fact.name} with that VNI, which must be down, or bound to another device`
            : here.length === 0
              ? `${node} has no device on UDP port ${port} that was recorded`
              : `the tunnels of ${node} on UDP port ${port} have ${here.map(({ fact }) => `VNI ${fact.tunnel!.vni} (${fact.name})`).join(', ')}`;
    const missing = defect === 'vni-unknown' ? `VNI ${vni}` : `UDP port ${port}`;
    const loweredFor =
      exchange.reasonName(first) === 'NOT_SPECIFIED'
        ? ['this kernel gives no reason for the drop: it is taken from the place in vxlan_rcv']
        : exchange.reasonDoubts(first);
    const arrived = exchange.observations.find(
      (o) => o.point === 'device.receive' && o.tunnel && o.netns === netns && o.time <= time,
    );
    const chain: Claim[] = [];
    if (arrived)
      chain.push({
        claim: 'arrived',
        text: `The tunnel packet with the ${noun} arrives at ${node} from ${peer}, UDP port ${port}, VNI ${vni}.`,
        evidence: evidenceOf(arrived),
      });
    chain.push({
      claim: defect,
      text: `${node} has no tunnel for ${missing} and drops it: ${dropText(exchange, first)}.`,
      evidence: evidenceOf(first),
    });
    if (tunnels.length > 0)
      chain.push({
        claim: 'tunnels-of-the-receiver',
        text: `What it has: ${has}.`,
        evidence: (here.length > 0 ? here : tunnels).map(({ evidence }) => evidence),
      });
    if (drops.length > 1)
      chain.push({
        claim: 'every-repeat-too',
        text: `${count(drops.length, 'packet')} of it died like that, the last after ${duration((drops.at(-1)!.time - exchange.startedAt) / 1e6)}.`,
        evidence: evidenceOf(...drops.slice(1)),
      });
    return {
      verdict: 'tunnel-wrong-vni',
      defect,
      title: `${outcomeText(exchange, subject.service ?? subject.backend)}: ${node} has no tunnel for ${missing}, in which ${peer} sends`,
      summary: `${peer} sends the ${noun} in a tunnel packet for VNI ${vni}, UDP port ${port}. It arrives, but ${has}: the packet is dropped without a word.`,
      cause: `tunnel-wrong-vni/${defect}/${node}/${peer}/${vni}/${port}`,
      confidence: loweredFor.length === 0 ? 'proved' : 'likely',
      loweredFor,
      subject,
      attempts: attemptsOf(exchange, drops),
      bypass: null,
      prediction: null,
      chain,
      ruledOut: [
        {
          verdict: 'lost-on-the-wire',
          text: 'the tunnel packet arrived',
          evidence: evidenceOf(arrived ?? first),
        },
        {
          verdict: 'double-snat',
          text: 'it was not dropped for its checksum: that is verified before the tunnel is looked up',
          evidence: evidenceOf(first),
        },
        {
          verdict: 'policy-drop',
          text: 'no rule dropped it: the drop reason is not netfilter’s',
          evidence: evidenceOf(first),
        },
      ],
      remedies: [
        {
          what: `make both ends agree: VNI and UDP port of the tunnel are settings of the CNI, and a node that kept an old one needs its device made anew`,
          command: 'ip -d link show type vxlan',
          source:
            'flannel: VNI and Port of its Backend; Calico: vxlanVNI, vxlanPort; Cilium: tunnel-port',
        },
      ],
    };
  },
};

/** What the receiver lacks; null when the packet died of something else. */
function defectOf(exchange: Case, drop: Observation): Defect | null {
  if (!drop.tunnel || drop.headers.tunnel < 0) return null;
  const reason = exchange.reasonName(drop);
  if (reason === 'VXLAN_VNI_NOT_FOUND') return 'vni-unknown';
  // before 6.13 vxlan_rcv gave no reason; what else it drops is malformed
  if (reason === 'NOT_SPECIFIED')
    return /^vxlan_rcv\+/.test(drop.world.symbol(drop.location)) ? 'vni-unknown' : null;
  return reason === 'NO_SOCKET' ? 'port-unknown' : null;
}
