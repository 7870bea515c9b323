import type {
  Claim,
  CounterRise,
  Evidence,
  Finding,
  Remedy,
  RuledOut,
  Subject,
  Unexplained,
} from '../explain/finding.js';
import { count, duration } from '../explain/wording.js';
import { evidenceOf, type Cause, type FindingEntry, type UnexplainedEntry } from './board.js';
import { h, localTime, prose, together, type Child } from './dom.js';
import { abridgedRows, attemptName, ladder } from './ladder.js';
import type { SessionRecords } from './records.js';

/** What the reader may do in a finding. */
export interface Actions {
  /** shows the event behind a claim */
  show(evidence: Evidence): void;
  /** shows another finding */
  select(key: string): void;
  /** the record shown now */
  shown: Evidence | null;
}

/** A finding whole: verdict first, then the ladder, the proof, what to do. */
export function findingView(entry: FindingEntry, cause: Cause, actions: Actions): Child[] {
  const { finding, records } = entry;
  return [
    head(finding),
    h('p', { class: 'summary' }, ...prose(finding.summary)),
    finding.loweredFor.length > 0 &&
      h(
        'div',
        { class: 'lowered' },
        h('p', {}, `Not sure, only ${finding.confidence}:`),
        h('ul', {}, ...finding.loweredFor.map((reason) => h('li', {}, ...prose(reason)))),
      ),
    section('What became of each attempt', ladder(finding, dropsOf(entry, actions))),
    finding.prediction && section('When it gets through', ...predictionView(finding)),
    section(
      'The proof',
      h(
        'ol',
        { class: 'chain' },
        ...finding.chain.map((claim) => claimView(claim, records, actions)),
      ),
    ),
    finding.counters.length > 0 &&
      section(
        'Counters that rose meanwhile',
        h(
          'ul',
          { class: 'counters' },
          ...finding.counters.map((c) => counterView(c, records, actions)),
        ),
      ),
    finding.remedies.length > 0 &&
      section('What to do', h('ul', { class: 'remedies' }, ...finding.remedies.map(remedyView))),
    finding.ruledOut.length > 0 &&
      section(
        'What it is not',
        h(
          'ul',
          { class: 'ruled-out' },
          ...finding.ruledOut.map((r) => ruledOutView(r, records, actions)),
        ),
      ),
    cause.findings.length > 1 && sameCause(entry, cause, actions),
    section('Who and where', subjectView(finding.subject)),
  ];
}

/** An exchange without a verdict: where each attempt was last seen, what is excluded, what next. */
export function unexplainedView(entry: UnexplainedEntry, actions: Actions): Child[] {
  const { unexplained, records } = entry;
  return [
    h(
      'header',
      { class: 'verdict' },
      h('p', { class: 'badges' }, badge('no verdict', 'plain'), outcomeBadge(unexplained)),
      h('h2', {}, together(unexplained.title)),
      times(unexplained),
    ),
    section(
      'Where each attempt was last seen',
      h(
        'ol',
        { class: 'chain' },
        ...abridgedRows(
          unexplained.attempts.map((attempt) =>
            h(
              'li',
              { 'data-n': attempt.n },
              h(
                'p',
                {},
                h('b', {}, attemptName(attempt)),
                `, ${attempt.atMs === 0 ? 'at once' : `after ${duration(attempt.atMs)}`}: last seen at `,
                ...prose(attempt.lastSeen),
                attempt.drop === null
                  ? null
                  : h('span', { class: 'bad' }, '; dropped: ', ...prose(attempt.drop)),
              ),
              evidenceButtons(`attempt-${attempt.n}`, attempt.evidence, records, actions),
            ),
          ),
          'chain',
        ),
      ),
    ),
    unexplained.excluded.length > 0 && section('What it is not', list(unexplained.excluded)),
    unexplained.next.length > 0 && section('Where to look next', list(unexplained.next)),
    section('Who and where', subjectView(unexplained.subject)),
  ];
}

/** Every record that an entry names. */
export function evidenceOfEntry(entry: FindingEntry | UnexplainedEntry): Evidence[] {
  return entry.kind === 'finding'
    ? evidenceOf(entry.finding)
    : entry.unexplained.attempts.flatMap(({ evidence }) => evidence);
}

export function badge(text: string, mood: string): HTMLElement {
  return h('span', { class: `badge ${mood}` }, text);
}

export function outcomeBadge({ outcome }: Pick<Finding | Unexplained, 'outcome'>): HTMLElement {
  const moods = { failed: 'bad', pending: 'warn', recovered: 'good' } as const;
  return badge(outcome, moods[outcome]);
}

function head(finding: Finding): HTMLElement {
  return h(
    'header',
    { class: 'verdict' },
    h(
      'p',
      { class: 'badges' },
      h('code', { class: 'code' }, finding.verdict),
      finding.defect !== undefined && h('code', { class: 'defect' }, finding.defect),
      badge(finding.confidence, finding.confidence === 'proved' ? 'proved' : 'warn'),
      outcomeBadge(finding),
    ),
    h('h2', {}, together(finding.title)),
    times(finding),
  );
}

function times({ startedAt, delayMs, lostEvents }: Finding | Unexplained): HTMLElement {
  return h(
    'p',
    { class: 'times' },
    h('time', { datetime: startedAt }, localTime(startedAt)),
    ` · ${duration(delayMs)}`,
    lostEvents > 0 && ` · ${count(lostEvents, 'event')} lost meanwhile`,
  );
}

function predictionView(finding: Finding): Child[] {
  const { recoverAtMs, observedMs, text } = finding.prediction!;
  const figure = (name: string, value: string): HTMLElement =>
    h('div', {}, h('dt', {}, name), h('dd', {}, value));
  const predicted =
    recoverAtMs === null ? 'not known' : recoverAtMs === 'never' ? 'never' : duration(recoverAtMs);
  return [
    h(
      'dl',
      { class: 'figures' },
      figure('predicted', predicted),
      figure('observed', observedMs === null ? 'not yet' : duration(observedMs)),
    ),
    h('p', {}, ...prose(text)),
  ];
}

function claimView(claim: Claim, records: SessionRecords, actions: Actions): HTMLElement {
  return h(
    'li',
    {},
    h('p', {}, ...prose(claim.text)),
    evidenceButtons(claim.claim, claim.evidence, records, actions),
  );
}

function ruledOutView(ruledOut: RuledOut, records: SessionRecords, actions: Actions): HTMLElement {
  return h(
    'li',
    {},
    h('p', {}, h('code', { class: 'code' }, ruledOut.verdict), ' ', ...prose(ruledOut.text)),
    evidenceButtons(ruledOut.verdict, ruledOut.evidence, records, actions),
  );
}

function counterView(
  { name, meaning, netns, from, to, rise, evidence }: CounterRise,
  records: SessionRecords,
  actions: Actions,
): HTMLElement {
  return h(
    'li',
    {},
    h(
      'p',
      {},
      h('code', { class: 'code' }, name),
      ` +${rise} in `,
      netns === null ? 'the whole node' : h('b', {}, netns),
      h('small', {}, ` ${from} → ${to}: ${meaning}`),
    ),
    evidenceButtons(`${netns}-${name}`, evidence, records, actions),
  );
}

function evidenceButtons(
  of: string,
  evidence: readonly Evidence[],
  records: SessionRecords,
  actions: Actions,
): HTMLElement | null {
  if (evidence.length === 0) return null;
  return h(
    'p',
    { class: 'evidence' },
    ...evidence.map((each) => {
      const label = records.label(each.seq) ?? 'record';
      const current = actions.shown?.seq === each.seq && actions.shown.session === each.session;
      return h(
        'button',
        {
          type: 'button',
          class: `event-chip ${label === 'packet.drop' ? 'bad' : ''}`,
          'aria-current': current ? 'true' : null,
          'data-key': `${of}-${each.seq}`,
          click: () => actions.show(each),
        },
        label,
        h('small', {}, ` #${each.seq}`),
      );
    }),
  );
}

function remedyView(remedy: Remedy): HTMLElement {
  const { command } = remedy;
  return h(
    'li',
    {},
    h('p', {}, ...prose(remedy.what), ' ', h('small', {}, remedy.source)),
    command === null
      ? null
      : h(
          'div',
          { class: 'command' },
          h('pre', { tabindex: 0 }, h('code', {}, command)),
          copyButton(command),
        ),
  );
}

/** What became of the last copy. */
let copied: { text: string; label: string; until: number } | null = null;
const COPIED_MS = 2000;

/** Says for a while what became of it, also when the finding is drawn anew meanwhile. */
function copyButton(text: string): HTMLElement {
  const button = h('button', { type: 'button', 'aria-label': `copy: ${text}` }, labelOf(text));
  button.addEventListener('click', () => {
    void copy(text, button.previousElementSibling!).then((done) => {
      copied = {
        text,
        label: done ? 'copied' : 'press Ctrl-C',
        until: performance.now() + COPIED_MS,
      };
      relabel(text);
      window.setTimeout(() => relabel(text), COPIED_MS + 1);
    });
  });
  return button;
}

function relabel(text: string): void {
  for (const button of document.querySelectorAll('.command button'))
    if (button.getAttribute('aria-label') === `copy: ${text}`) button.textContent = labelOf(text);
}

const labelOf = (text: string): string =>
  copied?.text === text && performance.now() < copied.until ? copied.label : 'copy';

/** Copies, or where the browser does not let us (no https), selects what is to be copied. */
async function copy(text: string, shown: Element): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection()?.selectAllChildren(shown);
    return false;
  }
}

function sameCause(entry: FindingEntry, cause: Cause, actions: Actions): HTMLElement {
  return section(
    `The same cause, ${count(cause.findings.length, 'time')}`,
    h(
      'div',
      { class: 'table', tabindex: 0, role: 'region', 'aria-label': 'findings of the same cause' },
      h(
        'table',
        {},
        h(
          'thead',
          {},
          h(
            'tr',
            {},
            ...['when', 'client', 'to', 'attempts', 'delay', 'outcome'].map((name) =>
              h('th', { scope: 'col' }, name),
            ),
          ),
        ),
        h(
          'tbody',
          {},
          ...cause.findings.slice(0, 100).map(({ key, finding }) =>
            h(
              'tr',
              { 'aria-current': key === entry.key ? 'true' : null },
              h(
                'td',
                {},
                h(
                  'button',
                  {
                    type: 'button',
                    class: 'link',
                    'data-key': key,
                    click: () => actions.select(key),
                  },
                  localTime(finding.startedAt),
                ),
              ),
              h('td', {}, h('code', {}, finding.subject.client)),
              h('td', {}, h('code', {}, finding.subject.service ?? finding.subject.backend ?? '')),
              h('td', {}, String(finding.attempts.length)),
              h('td', {}, duration(finding.delayMs)),
              h('td', {}, finding.outcome),
            ),
          ),
        ),
      ),
    ),
  );
}

function subjectView(subject: Subject): HTMLElement {
  const { tunnel } = subject;
  const rows: [string, string | null][] = [
    ['name', subject.name ?? null],
    ['client', subject.client],
    ['service', subject.service],
    ['backend', subject.backend],
    [
      'tunnel',
      tunnel &&
        `${tunnel.device ?? ''} ${tunnel.kind} ${tunnel.vni}, ${tunnel.local} → ${tunnel.remote}, port ${tunnel.port}`.trim(),
    ],
    ['namespace', subject.netns],
    [
      'process',
      subject.command === null
        ? null
        : `${subject.command}${subject.pid === null ? '' : ` (pid ${subject.pid})`}`,
    ],
    ['pod', subject.pod],
    ['container', subject.container],
  ];
  return h(
    'dl',
    { class: 'pairs' },
    ...rows.flatMap(([name, value]) =>
      value === null ? [] : [h('div', {}, h('dt', {}, name), h('dd', {}, value))],
    ),
  );
}

function list(texts: readonly string[]): HTMLElement {
  return h('ul', {}, ...texts.map((text) => h('li', {}, ...prose(text))));
}

function section(title: string, ...children: Child[]): HTMLElement {
  return h('section', {}, h('h3', {}, title), ...children);
}

/** Finds the event in which an attempt of a TCP connect was dropped. */
function dropsOf({ finding, records }: FindingEntry, actions: Actions) {
  const session = records.header.id;
  const seqs = evidenceOf(finding)
    .filter((each) => each.session === session)
    .map(({ seq }) => seq);
  const startMs = records.placeOf(finding.startedAt);
  const drops = records.dropsOfConnect(seqs);
  return ({ n, atMs }: Finding['attempts'][number]): (() => void) | null => {
    const next = finding.attempts.find((attempt) => attempt.n === n + 1)?.atMs ?? Infinity;
    // startedAt is cut to the millisecond
    const drop = drops.find(
      ({ timeMs }) => timeMs - startMs >= atMs - 1 && timeMs - startMs < next - 1,
    );
    return drop ? () => actions.show({ session, seq: drop.seq }) : null;
  };
}
