import { typeName } from '../../event/dns.js';
import { TCP_ACK, TCP_SYN } from '../../event/headers.js';
import type { Case } from '../diagnose.js';
import type { Observation } from '../exchanges/observation.js';

/** Is it one of the exchange's own requests (a SYN, a query), rather than an answer? */
export function isRequest(o: Observation): boolean {
  const dns = o.dns;
  if (dns) return !dns.response;
  return (o.headers.flow.flags & (TCP_SYN | TCP_ACK)) === TCP_SYN;
}

/** Is it an answer (a SYN-ACK, a DNS response)? */
export function isAnswer(o: Observation): boolean {
  const dns = o.dns;
  if (dns) return dns.response;
  return (o.headers.flow.flags & (TCP_SYN | TCP_ACK)) === (TCP_SYN | TCP_ACK);
}

/** `SYN`, `segment` or `query`: what the exchange's requests are. */
export function nounOf({ kind }: Pick<Case, 'kind'>): 'SYN' | 'segment' | 'query' {
  return kind === 'dns-lookup' ? 'query' : kind === 'tcp-transfer' ? 'segment' : 'SYN';
}

/** What attempt `n` (from 1) sends: `SYN`, `segment`, `A example.com`. */
export function whatOf(exchange: Case, n: number): string {
  if (exchange.kind !== 'dns-lookup') return nounOf(exchange);
  const query = exchange.queries[exchange.attempts[n - 1]?.message ?? 0];
  return query ? `${typeName(query.type)} ${query.name ?? '(name not captured)'}` : 'query';
}

/** `SYN 2`, `query 3 (A example.com)`: how a text names one attempt. */
export function nameOf(exchange: Case, n: number): string {
  return exchange.kind === 'dns-lookup'
    ? `query ${n} (${whatOf(exchange, n)})`
    : `${nounOf(exchange)} ${n}`;
}
