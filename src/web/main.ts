import type { Evidence } from '../explain/finding.js';
import { count, duration } from '../explain/wording.js';
import { Board, inOrder, type Cause, type Entry, type UnexplainedEntry } from './board.js';
import { Connection, type ConnectionState } from './connection.js';
import { byId, h, refill, together, type Child } from './dom.js';
import { eventView } from './event-view.js';
import {
  badge,
  evidenceOfEntry,
  findingView,
  outcomeBadge,
  unexplainedView,
  type Actions,
} from './finding-view.js';
import { PlaybackBar } from './playback.js';
import { figure, Rates } from './rates.js';
import { sessionView } from './session-view.js';

/** What came within this time is shown together, ms. */
const DRAW_MS = 50;
/** Entries of the list; the rest is counted. */
const MAX_LISTED = 200;

/** The page: what the server tells, what the reader looks at, and how both are shown. */
class Page {
  private readonly board = new Board();
  private readonly rates = new Rates();
  private readonly connection: Connection;
  private readonly playback: PlaybackBar;
  private connected: ConnectionState = { state: 'connecting' };
  /** the entry shown, and whether the reader chose it */
  private selected: string | null = null;
  private chosen = false;
  /** the record shown beside it */
  private shown: { evidence: Evidence; entry: string } | null = null;
  /** entries that changed since they were last looked at */
  private readonly unread = new Set<string>();
  private timer = 0;
  private drawnSession = '';
  /** the server speaks of things that this version of the page cannot read */
  private unreadable = false;
  private drawnDetail: readonly unknown[] = [];
  private drawMs = 0;
  private total = 0;
  private counted = { records: this.board.records, events: 0 };

  constructor() {
    this.connection = new Connection(
      {
        message: (message) => {
          try {
            const entry = this.board.take(message);
            if (entry) this.news(entry);
          } catch (error) {
            this.unreadable = true;
            console.error(error);
          }
          // records alone change figures only, which are drawn once a second
          if (message.type !== 'records') this.drawSoon();
        },
        state: (state) => {
          this.connected = state;
          this.drawConnection();
          this.drawSoon();
        },
        resume: () => this.board.resume,
        live: () =>
          this.board.records !== null && this.board.playback === null && !this.board.ended,
      },
      takeToken(),
    );
    this.playback = new PlaybackBar(byId('playback'), (message) => this.connection.send(message));
    window.setInterval(() => this.everySecond(), 1000);
    document.addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && this.shown) this.show(null);
    });
    this.connection.connectNow();
    this.draw();
  }

  // --- what happens

  private news(entry: Entry): void {
    if (entry.key !== this.selected) this.unread.add(entry.key);
    const title = entry.kind === 'finding' ? entry.finding.title : entry.unexplained.title;
    const what =
      entry.kind === 'unexplained'
        ? 'Unexplained'
        : entry.finding.revision > 1
          ? 'Changed'
          : 'Found';
    byId('news').textContent = `${what}: ${title}`;
  }

  private select(key: string, byReader = true): void {
    this.selected = key;
    this.chosen ||= byReader;
    this.unread.delete(key);
    if (this.shown && this.shown.entry !== key) this.shown = null;
    this.draw();
    if (byReader && byId('list').getBoundingClientRect().bottom <= byId('detail').offsetTop + 1)
      byId('detail').scrollIntoView({ behavior: 'smooth' });
  }

  private show(evidence: Evidence | null): void {
    const before = this.shown;
    this.shown = evidence && this.selected ? { evidence, entry: this.selected } : null;
    this.draw();
    // where it is opened over the page, what was clicked stays in sight
    if (this.shown) document.activeElement?.scrollIntoView({ block: 'nearest' });
    // closed: back to where it was opened
    if (!this.shown && before)
      document
        .querySelector<HTMLElement>(`#detail [data-key$="-${before.evidence.seq}"]`)
        ?.focus({ preventScroll: true });
  }

  private everySecond(): void {
    const { records } = this.board;
    if (records !== this.counted.records) this.counted = { records, events: 0 };
    this.total += (records?.events ?? 0) - this.counted.events;
    this.counted.events = records?.events ?? 0;
    this.rates.sample(this.total);
    this.drawRates();
    this.drawConnection();
    if (this.board.entries.size === 0) this.drawSoon();
  }

  // --- how it is shown

  private drawSoon(): void {
    // at most a third of the time goes into drawing, however much is told
    this.timer ||= window.setTimeout(() => this.draw(), Math.max(DRAW_MS, 2 * this.drawMs));
  }

  private draw(): void {
    window.clearTimeout(this.timer);
    this.timer = 0;
    const start = performance.now();
    const { board } = this;
    const causes = board.causes();
    const unexplained = board.unexplainedEntries();
    this.follow(causes, unexplained);
    for (const cause of causes)
      if (cause.findings.some(({ key }) => key === this.selected))
        for (const { key } of cause.findings) this.unread.delete(key);
    this.playback.set(board.playback);
    this.drawList(causes, unexplained);
    this.drawDetail(causes);
    this.drawEvent();
    this.drawSession();
    const found = causes.length + unexplained.length;
    this.drawMs = performance.now() - start;
    document.title = `${found > 0 ? `(${found}) ` : ''}skbwhy${board.records ? ` · ${board.records.header.node}` : ''}`;
  }

  /** What was not chosen by the reader follows what is told: the first finding stays. */
  private follow(causes: readonly Cause[], unexplained: readonly UnexplainedEntry[]): void {
    const { entries } = this.board;
    const current = this.selected === null ? undefined : entries.get(this.selected);
    const better = !this.chosen && current?.kind === 'unexplained' && causes.length > 0;
    if (current && !better) return;
    const first = causes[0]?.worst ?? unexplained[0];
    this.selected = first?.key ?? null;
    if (first) this.unread.delete(first.key);
    if (!current) this.chosen = false;
    this.shown = null;
  }

  private drawList(causes: readonly Cause[], unexplained: readonly UnexplainedEntry[]): void {
    const parts: Child[] = [];
    if (causes.length > 0)
      parts.push(
        h('h2', {}, 'Findings'),
        h(
          'ul',
          {},
          ...causes.slice(0, MAX_LISTED).map((cause) => h('li', {}, this.causeCard(cause))),
        ),
      );
    if (unexplained.length > 0)
      parts.push(
        h('h2', {}, 'Unexplained'),
        h(
          'ul',
          {},
          ...unexplained
            .slice(0, MAX_LISTED)
            .map((entry) => h('li', {}, this.unexplainedCard(entry))),
        ),
      );
    const more =
      Math.max(causes.length - MAX_LISTED, 0) + Math.max(unexplained.length - MAX_LISTED, 0);
    if (more > 0) parts.push(h('p', {}, `and ${more} more`));
    const list = byId('list');
    list.hidden = parts.length === 0;
    refill(list, ...parts);
  }

  private causeCard({ key, findings, worst }: Cause): HTMLElement {
    const { finding } = worst;
    const current = findings.some((entry) => entry.key === this.selected);
    const unread = findings.some((entry) => this.unread.has(entry.key));
    return this.card(
      { key, current, unread, open: worst.key },
      h('code', { class: 'code' }, finding.verdict),
      finding.title,
      h(
        'span',
        { class: 'badges' },
        findings.length > 1 && badge(`${findings.length}×`, 'plain'),
        findings.length > 1 && badge(`worst ${duration(finding.delayMs)}`, 'plain'),
        outcomeBadge(finding),
        finding.confidence !== 'proved' && badge(finding.confidence, 'warn'),
      ),
      worst,
    );
  }

  private unexplainedCard(entry: UnexplainedEntry): HTMLElement {
    const { unexplained, key } = entry;
    return this.card(
      {
        key,
        current: key === this.selected,
        unread: this.unread.has(key),
        open: key,
      },
      null,
      unexplained.title,
      h('span', { class: 'badges' }, outcomeBadge(unexplained)),
      entry,
    );
  }

  private card(
    state: { key: string; current: boolean; unread: boolean; open: string },
    verdict: Child,
    title: string,
    badges: HTMLElement,
    { records }: Entry,
  ): HTMLElement {
    const earlier = records !== this.board.records;
    return h(
      'button',
      {
        type: 'button',
        class: state.unread ? 'card unread' : 'card',
        'aria-current': state.current ? 'true' : null,
        'data-key': state.key,
        click: () => this.select(state.open),
      },
      verdict,
      h('span', { class: 'title' }, together(title)),
      badges,
      earlier && h('small', {}, `from an earlier session, ${records.header.id}`),
      state.unread && h('span', { class: 'unseen' }, ' (new)'),
    );
  }

  private drawDetail(causes: readonly Cause[]): void {
    const detail = byId('detail');
    const entry = this.selected === null ? undefined : this.board.entries.get(this.selected);
    document.body.classList.toggle('empty', !entry);
    const cause = causes.find(({ findings }) => findings.some((each) => each === entry));
    // what is the same is left alone: somebody may be marking a line of it
    const { shown } = this;
    const drawn = [entry, entry?.records.additions, cause?.findings.length, shown?.evidence];
    if (entry && drawn.every((each, i) => each === this.drawnDetail[i])) return;
    this.drawnDetail = drawn;
    if (!entry) return refill(detail, ...this.nothingYet());
    this.fetchEvidence(entry);
    const actions: Actions = {
      show: (evidence) => this.show(evidence),
      select: (key) => this.select(key),
      shown: this.shown?.evidence ?? null,
    };
    if (entry.kind === 'unexplained') return refill(detail, ...unexplainedView(entry, actions));
    refill(detail, ...findingView(entry, cause!, actions));
  }

  /** Asks the server for the records behind a finding that are not here. */
  private fetchEvidence(entry: Entry): void {
    if (entry.asked || entry.records !== this.board.records) return;
    if (entry.records.hold(evidenceOfEntry(entry))) return;
    entry.asked = true;
    const finding = entry.kind === 'finding' ? entry.finding.id : entry.unexplained.id;
    this.connection.send({ type: 'evidence', finding });
  }

  private drawEvent(): void {
    const aside = byId('event');
    document.body.classList.toggle('with-event', this.shown !== null);
    aside.hidden = this.shown === null;
    if (!this.shown) return aside.replaceChildren();
    const { evidence } = this.shown;
    const entry = this.board.entries.get(this.shown.entry);
    const records = entry?.records;
    const decoded = records?.header.id === evidence.session ? records.decode(evidence.seq) : null;
    const all = entry ? inOrder([...evidenceOfEntry(entry), evidence]) : [];
    const at = all.findIndex(
      (each) => each.seq === evidence.seq && each.session === evidence.session,
    );
    const step = (name: string, to: Evidence | undefined): HTMLElement =>
      h(
        'button',
        {
          type: 'button',
          class: 'step',
          disabled: to === undefined,
          'data-key': name,
          'aria-label': `${name} event of this finding`,
          click: () => to && this.show(to),
        },
        name === 'previous' ? '↑' : '↓',
      );
    refill(
      aside,
      h(
        'header',
        {},
        h('h2', {}, records?.label(evidence.seq) ?? 'record', h('small', {}, ` #${evidence.seq}`)),
        step('previous', all[at - 1]),
        step('next', all[at + 1]),
        h(
          'button',
          {
            type: 'button',
            class: 'step',
            'aria-label': 'close',
            'data-key': 'close',
            click: () => this.show(null),
          },
          '×',
        ),
      ),
      ...(decoded
        ? eventView(decoded)
        : [
            h(
              'p',
              { class: 'meaning' },
              'This record is no longer kept, neither here nor by the server. A recording of the session has it under this number.',
            ),
          ]),
    );
  }

  private nothingYet(): Child[] {
    const { board, connected } = this;
    const pulse = h('span', { class: 'pulse', 'aria-hidden': 'true' });
    if (!board.records) {
      if (connected.state === 'refused')
        return [
          h(
            'div',
            { class: 'nothing' },
            h('h2', {}, 'The server does not let this page in'),
            this.tokenForm(),
          ),
        ];
      return [h('div', { class: 'nothing' }, pulse, h('h2', {}, 'Waiting for the server'))];
    }
    const seen = `${count(Math.max(this.total, board.records.events), 'event')} seen by this page so far.`;
    if (board.ended !== null)
      return [
        h(
          'div',
          { class: 'nothing' },
          h('h2', {}, 'Nothing was wrong'),
          h('p', {}, `The session ended: ${board.ended}. ${seen}`),
        ),
      ];
    return [
      h(
        'div',
        { class: 'nothing' },
        pulse,
        h('h2', {}, 'Nothing is wrong so far'),
        h(
          'p',
          {},
          'A connection that fails or takes too long shows up here by itself, with the reason and its proof. ',
          seen,
        ),
        board.playback === null &&
          h(
            'p',
            {},
            'To see one, make one: ',
            h('code', {}, 'skbwhy lab double-snat'),
            ' on this node.',
          ),
      ),
    ];
  }

  private tokenForm(): HTMLElement {
    const input = h('input', {
      type: 'password',
      id: 'token',
      autocomplete: 'off',
      required: true,
      'data-key': 'token',
    });
    return h(
      'form',
      {
        class: 'token',
        submit: (event) => {
          event.preventDefault();
          sessionStorage.setItem(TOKEN, input.value);
          this.connection.connectNow(input.value);
        },
      },
      h('label', { for: 'token' }, 'It may want a token: the one that it was started with.'),
      input,
      h('button', { type: 'submit' }, 'connect'),
    );
  }

  private drawConnection(): void {
    const { connected, board } = this;
    const element = byId('connection');
    let mood: string;
    let text: string;
    if (this.unreadable) {
      mood = 'bad';
      text = 'the server is of another version: reload this page';
    } else if (connected.state === 'open' && board.records) {
      mood = board.ended === null ? 'good' : 'plain';
      text = board.ended !== null ? 'ended' : board.playback ? 'replay' : 'live';
    } else if (connected.state === 'broken') {
      mood = 'bad';
      text = 'not connected, trying again';
    } else if (connected.state === 'refused') {
      mood = 'bad';
      text = 'not let in';
    } else {
      mood = 'warn';
      text = 'connecting';
    }
    if (element.textContent === text) return;
    element.className = `connection ${mood}`;
    element.textContent = text;
  }

  private drawRates(): void {
    const { board, rates } = this;
    const lost = board.records?.lost ?? 0;
    byId('rates').replaceChildren(
      rates.curve(),
      h(
        'p',
        {},
        figure(rates.current.toLocaleString(), 'events/s'),
        figure(lost === 0 ? 'none' : lost.toLocaleString(), 'lost', lost === 0 ? '' : 'bad'),
        board.skipped > 0 && figure(board.skipped.toLocaleString(), 'not shown here', 'warn'),
      ),
    );
  }

  private drawSession(): void {
    const { records, server } = this.board;
    if (!records || this.drawnSession === records.header.id) return;
    this.drawnSession = records.header.id;
    const { header } = records;
    byId('node').replaceChildren(h('b', {}, header.node), ` ${header.kernel.release}`);
    refill(byId('session'), ...sessionView(header, server));
  }
}

const TOKEN = 'skbwhy.token';

/** The token in the address, which then goes from there, or the one given before in this tab. */
function takeToken(): string | null {
  const url = new URL(location.href);
  const given =
    url.searchParams.get('token') ?? new URLSearchParams(url.hash.slice(1)).get('token');
  if (given === null) return sessionStorage.getItem(TOKEN);
  sessionStorage.setItem(TOKEN, given);
  url.searchParams.delete('token');
  url.hash = '';
  history.replaceState(null, '', url);
  return given;
}

new Page();
