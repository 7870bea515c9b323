import { formatEndpoint } from '../../event/headers.js';
import { isAnswer, isRequest, nameOf } from '../../explain/reading/attempts.js';
import type { Case, Diagnoser } from '../../explain/diagnose.js';
import { attemptsOf, dropText, evidenceOf, outcomeText } from '../../explain/reading/fates.js';
import type { Claim } from '../../explain/finding.js';
import {
  IPS_CONFIRMED,
  IPS_DST_NAT,
  type Conntrack,
  type Observation,
} from '../../explain/exchanges/observation.js';
import { resolverTimeline } from '../../explain/reading/resolver.js';
import { subjectOf } from '../../explain/reading/subject.js';
import type { Known } from '../../explain/world.js';
import type { RulesFact } from '../../event/fact.js';
import { count, duration } from '../../explain/wording.js';

/** Queries that went to an old entry's backend. */
interface Stale {
  ct: Conntrack;
  /** where the entry is */
  seen: Observation;
  service: string;
  backend: string;
  /** attempts, from 1 */
  attempts: Set<number>;
  /** where a new entry of the Service leads; null: none was seen */
  now: ReturnType<Case['translation']>;
  /** the rules of now, where they lead nowhere to the backend any more; null: not known */
  rules: Known<RulesFact> | null;
}

/**
 * A conntrack entry that existed before keeps translating a busy UDP socket to a backend from which
 * nothing comes, while new entries of the same Service go to another one: nat rules are asked for the
 * first packet of an entry only, and each query refreshes it.
 */
export const staleBackend: Diagnoser = {
  verdict: 'stale-backend',

  diagnose(exchange) {
    if (exchange.kind !== 'dns-lookup') return null;
    const stale = staleEntry(exchange);
    if (!stale) return null;
    const { seen, ct, service, backend, attempts, now, rules } = stale;
    const { world } = seen;
    const node = world.netnsName(seen.netns);
    const drops = exchange.observations.filter(
      (o) => o.point === 'packet.drop' && attempts.has(o.attempt) && isRequest(o),
    );
    const nobody = drops.find((o) => /^NEIGH_/.test(exchange.reasonName(o)));
    // Dropped for another reason: that is the story.
    if (drops.some((o) => !/^NEIGH_|^NO_SOCKET$/.test(exchange.reasonName(o)))) return null;
    const noSocket = drops.find((o) => exchange.reasonName(o) === 'NO_SOCKET');
    const gone = nobody ?? noSocket;
    const subject = subjectOf(exchange);
    const elsewhere = [...(rules ? [rules.evidence] : []), ...(now ? [now.evidence] : [])];
    const loweredFor: string[] = gone ? exchange.reasonDoubts(gone) : [];
    if (!gone)
      loweredFor.push(
        `that ${backend} is gone is taken from its silence; nothing was seen to be dropped`,
      );
    if (!rules)
      loweredFor.push(
        `the rules of ${node} were not recorded after the change: a Service may have several backends, and a new entry that goes to ${now?.backend ?? 'another'} proves nothing of ${backend}`,
      );
    const chain: Claim[] = [
      {
        claim: 'old-entry',
        text:
          `${capital(nameOf(exchange, seen.attempt))} meets a conntrack entry in ${node} that was there before: no rule is asked, and its destination ${service} becomes ${backend}` +
          `${ct.timeoutMs === null ? '' : `; the entry lives another ${duration(ct.timeoutMs)}, and each query begins that anew`}.`,
        evidence: evidenceOf(seen),
      },
      {
        claim: 'rules-lead-elsewhere',
        text:
          (rules ? `No rule of ${node} leads to ${hostOf(backend)} any more. ` : '') +
          (now ? `A new entry for ${service} goes to ${now.backend}.` : ''),
        evidence: elsewhere,
      },
      gone
        ? {
            claim: 'backend-gone',
            text: `${backend} is gone: ${dropText(exchange, gone)}.`,
            evidence: evidenceOf(gone),
          }
        : {
            claim: 'backend-silent',
            text: `Nothing comes back from ${backend} for ${count(attempts.size, 'query')}.`,
            evidence: evidenceOf(
              exchange.observations.findLast((o) => attempts.has(o.attempt) && isRequest(o)),
            ),
          },
    ];
    const timeline = resolverTimeline(exchange).text;
    return {
      verdict: 'stale-backend',
      title: `${outcomeText(exchange, service)}: an old conntrack entry still leads to ${backend}`,
      summary:
        `${service} now leads ${now ? `to ${now.backend}` : 'elsewhere'}, but the client’s socket has sent through the same conntrack entry since before that, and the entry in ${node} still leads to ${backend}, ` +
        `${nobody ? 'an address that nobody has any more' : noSocket ? 'where nothing listens any more' : 'from which nothing comes'}. Each query refreshes the entry, so it never expires while the socket is busy. ${timeline}`,
      cause: `stale-backend/${node}/${service}/${backend}`,
      confidence: loweredFor.length === 0 ? 'proved' : rules || gone ? 'likely' : 'possible',
      loweredFor,
      subject: { ...subject, service, backend },
      attempts: attemptsOf(exchange, drops),
      bypass: null,
      prediction: {
        recoverAtMs: 'never',
        observedMs: null,
        text: 'as long as this socket sends more often than the entry’s timeout; a new socket, or the entry’s deletion, ends it',
      },
      chain,
      ruledOut: [
        {
          verdict: 'conntrack-insert-race',
          text: 'no entry was inserted: it was confirmed when the query came',
          evidence: evidenceOf(seen),
        },
        {
          verdict: 'slow-backend',
          text: `${backend} is not asked too much: it is not asked at all by who comes new`,
          evidence: elsewhere,
        },
        {
          verdict: 'no-listener',
          text: `whatever is at ${backend}: it is not where the Service leads`,
          evidence: evidenceOf(gone ?? seen),
        },
      ],
      remedies: [
        {
          what: 'delete the old entries; the next query makes one by the rules of now',
          command: `conntrack -D -p udp --orig-dst ${hostOf(service)} --dport ${portOf(service)} --reply-src ${hostOf(backend)}`,
          source:
            'conntrack(8); kube-proxy does so when a UDP endpoint goes, if conntrack is installed and its timing is right',
        },
        {
          what: 'let the client use a new socket (port) after a timeout, as the C libraries’ resolvers do',
          command: null,
          source:
            'nf_nat_inet_fn, net/netfilter/nf_nat_core.c: rules are asked for new entries only',
        },
      ],
    };
  },
};

function staleEntry(exchange: Case): Stale | null {
  const translated = exchange.observations.filter(
    (o) => !o.tunnel && o.ct !== null && isRequest(o) && (o.ct.status & IPS_DST_NAT) !== 0,
  );
  for (const seen of translated) {
    const ct = seen.ct!;
    if ((ct.status & IPS_CONFIRMED) === 0) continue;
    const same = translated.filter(
      (o) => o.ct!.originalKey === ct.originalKey && o.netns === seen.netns,
    );
    // An entry that this very lookup made is not old.
    if (same.some((o) => o.point === 'nat.setup' || (o.ct!.status & IPS_CONFIRMED) === 0)) continue;
    const service = formatEndpoint(ct.original.destination);
    const backend = formatEndpoint(ct.reply.source);
    const latest = exchange.translation(service);
    const now = latest && latest.backend !== backend ? latest : null;
    const known = seen.world.rules(seen.netns);
    const led = known?.fact.destinations?.includes(hostOf(backend));
    // Rules that lead there make it a backend like others, if a dead one: a change of them is told soon.
    if (led === true) continue;
    const rules = led === false ? known : null;
    if (!rules && !now) continue;
    const attempts = new Set(same.map((o) => o.attempt));
    const messages = new Set([...attempts].map((n) => exchange.attempts[n - 1]?.message));
    const answered = exchange.observations.some(
      (o) =>
        isAnswer(o) &&
        o.headers.flow.l4 >= 0 &&
        messages.has(exchange.attempts[o.attempt - 1]?.message) &&
        [service, backend].includes(formatEndpoint(o.headers.flow.source(o.record))) &&
        o.headers.flow.dport === seen.headers.flow.sport,
    );
    if (answered) continue;
    return { ct, seen, service, backend, attempts, now, rules };
  }
  return null;
}

function hostOf(endpoint: string): string {
  return endpoint.replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
}

function portOf(endpoint: string): string {
  return /\d+$/.exec(endpoint)?.[0] ?? '53';
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
