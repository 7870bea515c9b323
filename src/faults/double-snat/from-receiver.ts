import { sameChecksum, unfinishedChecksum } from '../../event/checksum.js';
import type { Case } from '../../explain/diagnose.js';
import type { Claim, Diagnosis } from '../../explain/finding.js';
import { nameOf } from '../../explain/reading/attempts.js';
import { dropText, evidenceOf } from '../../explain/reading/fates.js';
import { refusedChecksums } from '../../explain/reading/functions.js';
import { subjectOf } from '../../explain/reading/subject.js';
import { hex16 } from '../../explain/wording.js';
import { attemptsOf } from './attempts.js';
import type { Crossing } from './crossing.js';
import type { Defect } from './defect.js';
import { remedies } from './remedies.js';
import { deliveredClaim, outerFamily, titleOf } from './wording.js';

/** Only the receiving node was traced: the bad checksum is a fact, who made it is inferred. */
export function fromReceiver(exchange: Case, all: Crossing[], first: Crossing): Diagnosis | null {
  const wire = first.wire!;
  const { drop } = first;
  if (!drop || !/CSUM/.test(exchange.reasonName(drop))) return null;
  const { after, expected } = first.checksum!;
  // never finished: no NAT makes it so
  if (sameChecksum(after, unfinishedChecksum(wire.headers.outer, wire.record))) return null;
  const defect: Defect = after === 0xffff ? 'legacy-zero-checksum' : 'udpcsum-not-updated';
  const through = all.find(
    (c) => c.fate === 'delivered' && !c.badChecksum && c.wirePort !== first.wirePort,
  );
  const subject = subjectOf(exchange);
  const outer = wire.headers.outer;
  const peer = outer.source(wire.record).address;
  const node = wire.world.netnsName(wire.netns);
  const loweredFor = [
    `the sending node ${peer} was not traced: that its second SNAT spoiled the checksum is inferred from what arrives`,
  ];
  if (!through) loweredFor.push('no repeat from another outer port was seen to get through yet');
  const chain: Claim[] = [
    {
      claim: 'checksum-wrong-on-arrival',
      text:
        `${nameOf(exchange, first.n)} arrives at ${node} from ${peer} port ${first.wirePort} with outer UDP checksum ${hex16(after)}; ` +
        `its own headers say ${hex16(expected!)}.`,
      evidence: evidenceOf(first.arrived ?? wire),
    },
    {
      claim: 'dropped-by-peer',
      text: `${node} verifies it and drops it: ${dropText(exchange, drop)}.`,
      evidence: evidenceOf(...refusedChecksums(exchange, drop), drop),
    },
  ];
  if (through)
    chain.push({
      claim: 'repeat-from-another-port',
      text:
        `${nameOf(exchange, through.n)} is the same from outer port ${through.wirePort}, its checksum ${hex16(through.checksum?.after ?? 0)} is right, and it is delivered: ` +
        `the sender spoils some packets and not others, as a second SNAT does that only the first packet of an entry meets.`,
      evidence: evidenceOf(through.wire, through.exit),
    });
  chain.push(...deliveredClaim(exchange, all));
  return {
    verdict: 'double-snat',
    defect,
    title: titleOf(exchange, all, subject.service ?? subject.backend),
    summary:
      `Tunnel packets from ${peer} that carry this ${exchange.kind === 'dns-lookup' ? 'lookup’s query' : 'connection’s SYN'} arrive with a wrong outer UDP checksum and are dropped here. ` +
      (through
        ? `The repeat that came from another outer port was right and got through: the signature of a second SNAT on the sending node. `
        : '') +
      `The cause is on the sending node: record there too (skbwhy record FILE, on the node with ${peer}) and explain both files together.`,
    cause: `double-snat/${defect}/${peer}`,
    confidence: through ? 'likely' : 'possible',
    loweredFor,
    subject,
    attempts: attemptsOf(exchange, all),
    bypass: null,
    prediction: null,
    chain,
    ruledOut: [
      {
        verdict: 'lost-on-the-wire',
        text: 'it arrived, and was dropped after arrival, for its checksum',
        evidence: evidenceOf(first.arrived ?? wire),
      },
      ...(through
        ? [
            {
              verdict: 'checksum-offload',
              text: `a device that computes checksums wrongly would spoil the repeat too; ${nameOf(exchange, through.n)} is right`,
              evidence: evidenceOf(through.wire),
            },
          ]
        : []),
    ],
    remedies: [
      {
        what: `trace the sending node ${peer}, then explain both sessions together: it shows which rule masquerades the outer packet`,
        command: 'skbwhy record sender.skbw',
        source: 'this finding’s confidence is lowered only for the missing side',
      },
      ...remedies(
        defect,
        { device: null, port: outer.dport, outerFamily: outerFamily(wire) },
        null,
      ),
    ],
  };
}
