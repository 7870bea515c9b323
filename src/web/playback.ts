import type { ClientMessage, Playback } from '../stream/protocol.js';
import { h } from './dom.js';

const SPEEDS = [0.25, 0.5, 1, 2, 5, 10, 100] as const;

/** The controls of a recorded session. */
export class PlaybackBar {
  private state: Playback | null = null;
  private toldAt = 0;
  private dragging = false;
  private readonly play = h('button', {
    type: 'button',
    class: 'play',
    click: () => this.toggle(),
  });
  private readonly place = h('input', {
    type: 'range',
    min: 0,
    step: 1,
    'aria-label': 'position in the recording',
    input: () => {
      this.dragging = true;
      this.drawTime(Number(this.place.value));
    },
    change: () => {
      this.dragging = false;
      this.send({ type: 'seek', ms: Number(this.place.value) });
    },
  });
  private readonly time = h('output', { class: 'time' });
  private readonly speed = h(
    'select',
    {
      'aria-label': 'speed',
      change: () => {
        const { value } = this.speed;
        this.send({ type: 'speed', speed: value === 'max' ? 'max' : Number(value) });
      },
    },
    ...SPEEDS.map((speed) => h('option', { value: speed }, `${speed}×`)),
    h('option', { value: 'max' }, 'max'),
  );

  constructor(
    private readonly element: HTMLElement,
    private readonly send: (message: ClientMessage) => void,
  ) {
    element.append(this.play, this.place, this.time, this.speed);
    window.setInterval(() => this.draw(), 200);
  }

  /** Takes how the replay stands; null: the session is live. */
  set(state: Playback | null): void {
    if (state === this.state) return;
    this.state = state;
    this.toldAt = performance.now();
    this.element.hidden = state === null;
    if (!state) return;
    this.place.max = String(Math.ceil(state.durationMs));
    const speed = String(state.speed);
    if (![...this.speed.options].some((option) => option.value === speed))
      this.speed.append(h('option', { value: speed }, `${speed}×`));
    this.speed.value = speed;
    this.draw();
  }

  private toggle(): void {
    const { state } = this;
    if (!state) return;
    if (state.ended) this.send({ type: 'seek', ms: 0 });
    else this.send({ type: 'pause', paused: !state.paused });
  }

  private draw(): void {
    const { state } = this;
    if (!state) return;
    const label = state.ended ? 'play again' : state.paused ? 'play' : 'pause';
    if (this.play.textContent !== label) this.play.textContent = label;
    if (this.dragging) return;
    const moving = !state.paused && !state.ended && typeof state.speed === 'number';
    const passed = moving ? (performance.now() - this.toldAt) * (state.speed as number) : 0;
    const ms = Math.min(state.ms + passed, state.durationMs);
    this.place.value = String(Math.round(ms));
    this.drawTime(ms);
  }

  private drawTime(ms: number): void {
    const text = `${clock(ms)} / ${clock(this.state?.durationMs ?? 0)}`;
    if (this.time.value !== text) this.time.value = text;
    this.place.setAttribute('aria-valuetext', text);
  }
}

/** `1:05.3` */
function clock(ms: number): string {
  const tenths = Math.floor(ms / 100);
  const seconds = Math.floor(tenths / 10);
  const rest = String(seconds % 60).padStart(2, '0');
  return `${Math.floor(seconds / 60)}:${rest}.${tenths % 10}`;
}
