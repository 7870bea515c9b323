import type { Diagnoser } from '../../explain/diagnose.js';
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

/**
 * rp_filter dropped a packet: IP_RPFILTER, from ip_rcv_finish_core (net/ipv4/ip_input.c, reasons from
 * 5.17 on), where __fib_validate_source finds the route back elsewhere (strict) or nowhere (loose).
 */
export const reversePathFilter: Diagnoser = {
  verdict: 'reverse-path-filter',

  diagnose(exchange) {
    const drops = dropsOf(exchange, /^IP_RPFILTER$/);
    const first = drops[0];
    if (!first) return null;
    const { world, netns } = first;
    const node = world.netnsName(netns);
    const device = world.deviceName(netns, first.ifindex);
    const source = first.headers.outer.source(first.record).address;
    const noun = packetNoun(exchange, first);
    const subject = subjectOf(exchange);
    const mode = modeOf(first);
    const back = routesTo(world, netns, source, first.time);

    const loweredFor = exchange.reasonDoubts(first);
    const chain: Claim[] = [
      {
        claim: 'dropped-by-rp-filter',
        text: `The ${noun} from ${source} comes to ${node} by ${device} and is dropped there: ${dropText(exchange, first)}.`,
        evidence: evidenceOf(first),
      },
    ];
    if (mode)
      chain.push({
        claim: 'rp-filter',
        text: `rp_filter of ${device} is ${mode.value} (${mode.value === 1 ? 'strict: the route back must lead through it' : 'loose: there must be a route back at all'}): the larger of its own (${mode.own ?? 'not known'}) and that of all (${mode.all ?? 'not known'}).`,
        evidence: mode.evidence,
      });
    if (back)
      chain.push({
        claim: back.length > 0 ? 'route-back-elsewhere' : 'no-route-back',
        text:
          back.length > 0
            ? `The route back to ${source} is ${back.map(routeText).join(' and ')}, not through ${device}.`
            : `The main table of ${node} has no route to ${source}.`,
        evidence: back.length > 0 ? back.map(({ evidence }) => evidence) : evidenceOfDevice(first),
      });
    if (drops.length > 1)
      chain.push({
        claim: 'every-repeat-too',
        text: `${drops.length} packets of it died like that, the last after ${duration((drops.at(-1)!.time - exchange.startedAt) / 1e6)}.`,
        evidence: evidenceOf(...drops.slice(1)),
      });
    const elsewhere = back?.[0];
    return {
      verdict: 'reverse-path-filter',
      title: `${outcomeText(exchange, subject.service ?? subject.backend)}: the ${noun} came by ${device} in ${node}, and rp_filter dropped it`,
      summary:
        `On ${node} the ${noun} from ${source} came by ${device}, ` +
        (elsewhere
          ? `but the route back to ${source} is ${routeText(elsewhere)}. `
          : back
            ? `but no route leads back to ${source}. `
            : `through which no route leads back to ${source}. `) +
        `rp_filter${mode ? ` (${mode.value === 1 ? 'strict' : 'loose'})` : ''} takes such a packet for forged and drops it without a word.`,
      cause: `reverse-path-filter/${node}/${device}`,
      confidence: loweredFor.length === 0 ? 'proved' : 'likely',
      loweredFor,
      subject,
      attempts: attemptsOf(exchange, drops),
      bypass: null,
      prediction: null,
      chain,
      ruledOut: [
        {
          verdict: 'policy-drop',
          text: 'no rule dropped it: the reason is rp_filter’s own, given when its route was looked up',
          evidence: evidenceOf(first),
        },
        {
          verdict: 'lost-on-the-wire',
          text: 'it arrived where it was dropped',
          evidence: evidenceOf(first),
        },
      ],
      remedies: remedies(device, source, back, mode?.value ?? null),
    };
  },
};

/** What rp_filter held for the device: the maximum of `all` and its own (ip-sysctl.rst). */
function modeOf(drop: Observation) {
  const { world, netns, ifindex, time } = drop;
  const device = world.device(netns, ifindex, time);
  const all = world.setting(netns, 'net.ipv4.conf.all.rp_filter', time);
  const own = device?.fact.rpFilter ?? null;
  if (!all && own === null) return null;
  const value = Math.max(Number(all?.fact ?? 0), own ?? 0);
  return {
    value,
    own,
    all: all?.fact ?? null,
    evidence: [...(device ? [device.evidence] : []), ...(all ? [all.evidence] : [])],
  };
}

const routeText = ({ device, text }: Route): string => `\`${text} dev ${device.name}\``;

function evidenceOfDevice(drop: Observation) {
  const known = drop.world.device(drop.netns, drop.ifindex, drop.time);
  return known ? [known.evidence] : evidenceOf(drop);
}

function remedies(
  device: string,
  source: string,
  back: readonly Route[] | null,
  mode: number | null,
): Remedy[] {
  const list: Remedy[] = [
    {
      what: back?.length
        ? `mend the routing, so that ${source} is reached through ${device}, or its packets come by ${back[0]!.device.name}`
        : `give the node a route back to ${source}`,
      command: back?.length
        ? `ip route get ${source}`
        : `ip route add ${source}/32 dev ${device} …`,
      source: 'the asymmetry is the cause, the filter only makes it visible',
    },
  ];
  if (mode !== 2 && (back === null || back.length > 0))
    list.push({
      what: 'or, where the asymmetry is meant (several uplinks, policy routing, a VPN), let the filter be loose on this device: 2 wins over 1 of all, 0 does not',
      command: `sysctl -w net.ipv4.conf.${device}.rp_filter=2`,
      source: 'Documentation/networking/ip-sysctl.rst: the maximum of conf/{all,interface} is used',
    });
  return list;
}
