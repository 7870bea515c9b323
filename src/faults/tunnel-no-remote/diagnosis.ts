import { isRequest } from '../../explain/reading/attempts.js';
import type { Case, Diagnoser } from '../../explain/diagnose.js';
import {
  attemptsOf,
  dropText,
  dropsOf,
  evidenceOf,
  outcomeText,
  packetNoun,
} from '../../explain/reading/fates.js';
import type { Claim, Remedy } from '../../explain/finding.js';
import type { Observation } from '../../explain/exchanges/observation.js';
import { routesTo, type Route } from '../../explain/reading/routes.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { duration } from '../../explain/wording.js';

type Defect = 'no-fdb-entry' | 'no-neighbour' | 'no-route' | 'peer-unresolved';

/** A tunnel had a packet to send and nowhere to send it to. */
export const tunnelNoRemote: Diagnoser = {
  verdict: 'tunnel-no-remote',

  diagnose(exchange) {
    const drops = dropsOf(
      exchange,
      /^(NO_TX_TARGET|IP_OUTNOROUTES|NEIGH_(FAILED|QUEUEFULL|DEAD)|NOT_SPECIFIED)$/,
    ).filter((o) => defectOf(exchange, o) !== null);
    const first = drops[0];
    const defect = first && defectOf(exchange, first);
    if (!first || !defect) return null;
    const { world, netns, time } = first;
    const node = world.netnsName(netns);
    const noun = packetNoun(exchange, first);
    const subject = subjectOf(exchange);
    const entry = exchange.observations.find(
      (o) =>
        o.point === 'tunnel.transmit' &&
        o.netns === netns &&
        o.attempt === first.attempt &&
        isRequest(o) === isRequest(first),
    );
    const tunnel = first.tunnel ? entry : first;
    const device = tunnel ? world.deviceName(netns, tunnel.ifindex) : 'the tunnel';
    const { address } = first.headers.flow.destination(first.record);
    const route = routesTo(world, netns, address, time)?.find((one) => one.device.name === device);
    const hop = nextHop(route, address);
    const peer = first.tunnel ? first.headers.outer.destination(first.record).address : null;
    const specific = exchange.reasonName(first) !== 'NOT_SPECIFIED';
    const what = {
      'no-fdb-entry': `${device} has no FDB entry for the MAC address of ${hop}, and none for unknown ones`,
      'no-neighbour': `nobody on ${device} answers for ${hop}, and it has no neighbour entry`,
      'no-route': `there is no route to the peer that ${device} would send to`,
      'peer-unresolved': `the peer ${peer} of ${device} does not answer on its own network`,
    }[defect];

    const chain: Claim[] = [];
    if (route)
      chain.push({
        claim: 'routed-into-the-tunnel',
        text: `On ${node} ${address} is routed to ${device} (\`${route.text} dev ${device}\`).`,
        evidence: [route.evidence],
      });
    if (entry)
      chain.push({
        claim: 'handed-to-the-tunnel',
        text: `The ${noun} is handed to ${device}.`,
        evidence: evidenceOf(entry),
      });
    chain.push({
      claim: defect,
      text: `The ${noun} is dropped ${waited(exchange, first)}, because ${what}: ${dropText(exchange, first)}.`,
      evidence: evidenceOf(first),
    });
    if (drops.length > 1)
      chain.push({
        claim: 'every-repeat-too',
        text: `${drops.length} packets of it died like that, the last after ${duration((drops.at(-1)!.time - exchange.startedAt) / 1e6)}.`,
        evidence: evidenceOf(...drops.slice(1)),
      });
    return {
      verdict: 'tunnel-no-remote',
      defect,
      title: `${outcomeText(exchange, subject.service ?? subject.backend)}: on ${node} ${what}`,
      summary:
        `On ${node} the ${noun} to ${address} goes into ${device}, but ${what}. ` +
        `It never left the node.`,
      cause: `tunnel-no-remote/${defect}/${node}/${device}/${peer ?? hop}`,
      confidence: specific ? 'proved' : 'likely',
      loweredFor: specific
        ? []
        : ['this kernel gives no reason for the drop: it is taken from the place in vxlan_xmit'],
      subject,
      attempts: attemptsOf(exchange, drops),
      bypass: null,
      prediction: null,
      chain,
      ruledOut: [
        {
          verdict: 'lost-on-the-wire',
          text: 'it did not come to the wire',
          evidence: evidenceOf(first),
        },
        {
          verdict: 'tunnel-wrong-vni',
          text: 'no peer was asked: the packet died before it was sent',
          evidence: evidenceOf(first),
        },
        {
          verdict: 'policy-drop',
          text: 'no rule dropped it: the drop reason is not netfilter’s',
          evidence: evidenceOf(first),
        },
      ],
      remedies: remedies(defect, device, hop, peer),
    };
  },
};

/** What was missing, by where the packet died; null when a tunnel has nothing to do with it. */
function defectOf(exchange: Case, drop: Observation): Defect | null {
  const reason = exchange.reasonName(drop);
  const location = drop.world.symbol(drop.location);
  // vxlan_xmit and vxlan_xmit_one, drivers/net/vxlan/vxlan_core.c; named reasons from 6.13 on
  if (reason === 'NO_TX_TARGET') return /^vxlan_/.test(location) ? 'no-fdb-entry' : null;
  if (reason === 'NOT_SPECIFIED') return /^vxlan_xmit\+/.test(location) ? 'no-fdb-entry' : null;
  if (reason === 'IP_OUTNOROUTES') return /^(vxlan|geneve)_xmit/.test(location) ? 'no-route' : null;
  if (drop.tunnel) return 'peer-unresolved';
  const device = drop.world.device(drop.netns, drop.ifindex, drop.time);
  return device?.fact.tunnel ? 'no-neighbour' : null;
}

/** A packet that waits for a neighbour dies when its probes are used up. */
function waited(exchange: Case, drop: Observation): string {
  const start = exchange.attempts[drop.attempt - 1]?.startedAt ?? exchange.startedAt;
  const ms = (drop.time - start) / 1e6;
  return ms < 5 ? 'there' : `after it waited ${duration(ms)}`;
}

function nextHop(route: Route | undefined, address: string): string {
  return / via (\S+)/.exec(route?.text ?? '')?.[1] ?? address;
}

function remedies(defect: Defect, device: string, hop: string, peer: string | null): Remedy[] {
  const agent: Remedy = {
    what: 'what fills the tunnel’s tables is the CNI’s agent (flannel, Calico, Cilium …): see whether it runs on this node and knows the other one',
    command: 'kubectl get nodes -o wide; kubectl -n kube-system get pods -o wide',
    source: 'its log says which node’s lease or annotation it could not read',
  };
  switch (defect) {
    case 'no-fdb-entry':
      return [
        agent,
        {
          what: `or by hand: the MAC address of ${hop} (ip neigh), and the node it is on`,
          command: `bridge fdb append <mac of ${hop}> dev ${device} dst <node's address>`,
          source: 'bridge(8)',
        },
      ];
    case 'no-neighbour':
      return [
        agent,
        {
          what: `or by hand: the MAC address of the other node’s ${device}`,
          command: `ip neigh replace ${hop} lladdr <mac> dev ${device} nud permanent`,
          source: 'ip-neighbour(8)',
        },
      ];
    case 'no-route':
      return [
        {
          what: 'give the node a route to its peers',
          command: `bridge fdb show dev ${device}; ip route get <dst of the entry>`,
          source: 'vxlan_xmit_one looks the outer packet’s route up',
        },
        agent,
      ];
    case 'peer-unresolved':
      return [
        {
          what: `is ${peer} still the address of a node? A node that went leaves its FDB entry behind`,
          command: `ip neigh show ${peer}; bridge fdb show dev ${device}`,
          source: 'NEIGH_FAILED on the underlay device',
        },
        agent,
      ];
  }
}
