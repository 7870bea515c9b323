import type { DroppingRule } from '../../event/fact.js';
import { refusedAsInvalid } from '../../explain/reading/checksums.js';
import type { Case, Diagnoser } from '../../explain/diagnose.js';
import {
  attemptsOf,
  dropText,
  dropsOf,
  evidenceOf,
  isReset,
  outcomeText,
  packetNoun,
} from '../../explain/reading/fates.js';
import type { Claim, Evidence, Remedy, RuledOut } from '../../explain/finding.js';
import type { Observation } from '../../explain/exchanges/observation.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { duration } from '../../explain/wording.js';
import {
  candidates,
  droppedBy,
  hooksOf,
  refusedByConntrack,
  rulesAt,
  type Candidate,
} from './place.js';

/** How long after a rejected packet its refusal leaves the same node, ns. */
const AT_ONCE = 5e6;

/** A rule dropped or rejected a packet of the exchange. */
export const policyDrop: Diagnoser = {
  verdict: 'policy-drop',
  kinds: ['tcp-connect', 'tcp-transfer', 'dns-lookup'],

  diagnose(exchange) {
    const all = dropsOf(exchange, /^NETFILTER_DROP$/);
    const found = firstByRule(exchange, all);
    if (!found) return null;
    const { drop: first, suspects } = found;
    const drops = all.filter((drop) => isLike(drop, first));
    const { world } = first;
    const node = world.netnsName(first.netns);
    const rule = theRule(suspects);
    const noun = packetNoun(exchange, first);
    const refusal = refusalOf(exchange, first);
    const rejected = rule ? rule.action === 'reject' : refusal !== null;
    const what = first.tunnel ? `the tunnel packet with the ${noun}` : `the ${noun}`;
    const did = rejected ? 'rejected' : 'dropped';
    const subject = subjectOf(exchange);
    const rulesEvidence = evidenceOfRules(first);
    const hooks = rule ? [rule.hook] : hooksOf(exchange, first);
    const where = hooks.map((hook) => hook.toUpperCase()).join(' or ');

    const loweredFor: string[] = [];
    if (droppedBy(first) !== 'nft' && !rule)
      loweredFor.push(
        suspects === null
          ? `the rules of ${node} were not recorded: that it was one of them is taken from the drop reason alone`
          : `several rules of ${node} may have ${did} it`,
      );

    if (rule && rulesAt(first)?.sure === false)
      loweredFor.push(`the rules of ${node} changed about then: which ones it met is not sure`);

    const chain: Claim[] = [
      {
        claim: rejected ? 'rejected' : 'dropped-by-policy',
        text: `${node} drops ${what} in ${where}: ${dropText(exchange, first)}.`,
        evidence: evidenceOf(first),
      },
      ruleClaim(node, suspects, rule, first, rulesEvidence),
    ];
    if (refusal)
      chain.push({
        claim: 'refused-by-the-rule',
        text:
          `${duration((refusal.time - first.time) / 1e6)} later a RST leaves ${node} in the server’s name: the ${noun} never came further, ` +
          `so the rule made the RST, not a server.`,
        evidence: evidenceOf(refusal),
      });
    if (drops.length > 1)
      chain.push({
        claim: 'every-repeat-too',
        text: `${drops.length} packets of it died like that, the last after ${duration((drops.at(-1)!.time - exchange.startedAt) / 1e6)}.`,
        evidence: evidenceOf(...drops.slice(1)),
      });

    const name = rule ? quote(rule) : null;
    return {
      verdict: 'policy-drop',
      title: `${outcomeText(exchange, subject.service ?? subject.backend)}: ${what} ${did} by ${name ?? 'a rule'} in ${node}`,
      summary:
        `On ${node} ${name ?? (suspects && suspects.length > 0 ? `one of ${suspects.length} rules` : 'a rule')} ${did} ${what}. ` +
        (rejected && first.tunnel
          ? `The refusal went to the other node, whose tunnel does not pass it on.`
          : rejected
            ? `The refusal that the client saw came from there, not from the server’s stack.`
            : `Nobody told the client, which could only wait and repeat.`),
      cause: `policy-drop/${node}/${rule ? `${rule.table}/${rule.chain}/${rule.handle}` : `${world.symbol(first.location)}/${where}`}`,
      confidence: loweredFor.length === 0 ? 'proved' : suspects === null ? 'possible' : 'likely',
      loweredFor,
      subject,
      attempts: attemptsOf(exchange, drops),
      bypass: null,
      prediction: null,
      chain,
      ruledOut: ruledOut(exchange, first, rejected),
      remedies: remedies(node, rule, suspects),
    };
  },
};

/** The first of the drops that a rule made, and the rules that may have been it. */
function firstByRule(exchange: Case, drops: readonly Observation[]) {
  for (const drop of drops) {
    const suspects = candidates(exchange, drop);
    // what is INVALID for its checksum is that of who spoiled it
    if (byRule(drop, suspects) && !refusedAsInvalid(drop)) return { drop, suspects };
  }
  return null;
}

/** Did a packet die in the same place, and in the same state, as another? */
function isLike(drop: Observation, other: Observation): boolean {
  return (
    drop.netns === other.netns &&
    drop.location === other.location &&
    !refusedByConntrack(drop) &&
    (drop.ct === null) === (other.ct === null)
  );
}

/** Is it sure enough that a rule, and not the kernel’s own conntrack or NAT, dropped it? */
function byRule(drop: Observation, suspects: readonly Candidate[] | null): boolean {
  const by = droppedBy(drop);
  if (by === 'nft') return true;
  if (by === null || refusedByConntrack(drop)) return false;
  return suspects === null ? drop.ct !== null : suspects.length > 0;
}

/**
 * The one rule that can have done it: the only one that fits, or the first of several of one base
 * chain, when nothing can have led around it (packets that an earlier rule accepts leave the whole
 * chain, so that none of the others has dropped them either).
 */
function theRule(suspects: readonly Candidate[] | null): DroppingRule | null {
  const [first, ...others] = suspects ?? [];
  if (!first) return null;
  if (others.length === 0) return first.rule;
  const base = baseOf(first.rule);
  const alone =
    first.meets === 'yes' &&
    !first.rule.skippable &&
    !first.rule.policy &&
    others.every((one) => one.meets === 'yes' && baseOf(one.rule) === base);
  return alone ? first.rule : null;
}

const baseOf = (rule: DroppingRule): string =>
  [rule.backend, rule.family, rule.table, rule.hook, rule.priority].join(' ');

function ruleClaim(
  node: string,
  suspects: readonly Candidate[] | null,
  rule: DroppingRule | null,
  drop: Observation,
  evidence: Evidence[],
): Claim {
  if (rule)
    return {
      claim: 'which-rule',
      text: `Of the rules of ${node} that drop or reject there, ${suspects!.length === 1 ? `only ${quote(rule)} fits the packet` : `${quote(rule)} is the first that fits the packet`}.`,
      evidence,
    };
  if (suspects && suspects.length > 0)
    return {
      claim: 'which-rules',
      text: `These rules of ${node} may have done it: ${suspects
        .slice(0, 8)
        .map((one) => quote(one.rule))
        .join('; ')}${suspects.length > 8 ? ` and ${suspects.length - 8} more` : ''}.`,
      evidence,
    };
  return {
    claim: 'rule-not-known',
    text: suspects
      ? `None of the recorded rules of ${node} fits: it came or went in between, or a program stands there.`
      : `The rules of ${node} were not recorded.`,
    evidence: evidence.length > 0 ? evidence : evidenceOf(drop),
  };
}

/** A RST that the dropping node sends to the client at once: REJECT with tcp-reset (nf_send_reset). */
function refusalOf(exchange: Case, drop: Observation): Observation | null {
  return (
    exchange.observations.find(
      (o) =>
        isReset(o) &&
        o.point === 'device.transmit' &&
        o.netns === drop.netns &&
        Math.abs(o.time - drop.time) < AT_ONCE,
    ) ?? null
  );
}

function evidenceOfRules(drop: Observation): Evidence[] {
  const rules = rulesAt(drop);
  return rules ? [rules.known.evidence] : [];
}

function ruledOut(exchange: Case, drop: Observation, rejected: boolean): RuledOut[] {
  const out: RuledOut[] = [
    {
      verdict: 'conntrack-reply-collision',
      text:
        droppedBy(drop) === 'nft'
          ? 'the drop is in nft’s own rule evaluation, not where conntrack inserts an entry'
          : drop.ct === null
            ? 'the packet bore no conntrack entry that could have been refused'
            : `its entry (status 0x${drop.ct.status.toString(16)}) was not yet to be inserted: that is where both NATs are done (0x180)`,
      evidence: evidenceOf(drop),
    },
  ];
  if (rejected)
    out.push({
      verdict: 'no-listener',
      text: 'the packet did not reach a server’s stack: it was freed in netfilter, with NETFILTER_DROP, not NO_SOCKET',
      evidence: evidenceOf(drop),
    });
  if (exchange.attached('packet.drop'))
    out.push({
      verdict: 'lost-on-the-wire',
      text: 'it arrived where it was dropped',
      evidence: evidenceOf(drop),
    });
  return out;
}

function remedies(
  node: string,
  rule: DroppingRule | null,
  suspects: readonly Candidate[] | null,
): Remedy[] {
  const backend = rule?.backend ?? suspects?.[0]?.rule.backend ?? null;
  const list: Remedy[] = [
    rule
      ? {
          what: `if the traffic is wanted: let it pass before ${quote(rule)}, or change the policy (NetworkPolicy, firewall) that made it`,
          command: acceptCommand(rule),
          source: `the rules of ${node}, as recorded`,
        }
      : {
          what: 'see which rule counts the packets while the client repeats',
          command:
            backend === 'iptables-legacy'
              ? 'iptables-legacy -L -v -n'
              : backend === 'iptables-nft'
                ? 'iptables-nft -L -v -n'
                : 'nft list ruleset',
          source: 'packet counters of the rules',
        },
  ];
  if (backend === 'nft' || backend === 'iptables-nft')
    list.push({
      what: 'or watch the packet go through every rule',
      command: 'nft monitor trace (after: nft insert rule … meta nftrace set 1)',
      source: 'nft(8)',
    });
  return list;
}

/** The command that lets everything pass which the rule itself would meet; to be narrowed. */
function acceptCommand(rule: DroppingRule): string | null {
  const tool = rule.family === 'ip6' ? 'ip6tables' : 'iptables';
  switch (rule.backend) {
    case 'nft':
      return rule.policy
        ? `nft insert rule ${rule.family} ${rule.table} ${rule.chain} <match> accept`
        : `nft insert rule ${rule.family} ${rule.table} ${rule.chain} position ${rule.handle} <match> accept`;
    default:
      return `${tool}${rule.backend === 'iptables-legacy' ? '-legacy' : '-nft'} -t ${rule.table} -I ${rule.chain}${rule.policy ? '' : ` ${rule.handle}`} <match> -j ACCEPT`;
  }
}

/** A rule as its own tool prints it, with where it stands. */
function quote(rule: DroppingRule): string {
  const place =
    rule.backend === 'nft'
      ? `nft ${rule.family} ${rule.table} ${rule.chain}`
      : `${rule.backend.replace('iptables', rule.family === 'ip6' ? 'ip6tables' : 'iptables')} ${rule.table}/${rule.chain}`;
  if (rule.policy) return `the policy of ${place} (drop)`;
  return `\`${rule.text}\` (${place}, ${rule.backend === 'nft' ? 'handle' : 'rule'} ${rule.handle})`;
}
