import { h, svg, type Child } from './dom.js';

/** Seconds that the curve shows. */
const SECONDS = 60;
const WIDTH = 120;
const HEIGHT = 28;

/** Events a second over the last minute. */
export class Rates {
  private readonly perSecond: number[] = [];
  private before = 0;
  private at = performance.now();

  /** Takes the count of events so far; to be called about once a second. */
  sample(events: number): void {
    const now = performance.now();
    const grown = Math.max(events - this.before, 0);
    this.perSecond.push((grown * 1000) / Math.max(now - this.at, 1));
    if (this.perSecond.length > SECONDS) this.perSecond.shift();
    this.before = events;
    this.at = now;
  }

  get current(): number {
    return Math.round(this.perSecond.at(-1) ?? 0);
  }

  /** The curve of the last minute. */
  curve(): SVGElement {
    const most = Math.max(...this.perSecond, 1);
    const points = this.perSecond.map((rate, i) => {
      const x = WIDTH - (this.perSecond.length - 1 - i) * (WIDTH / (SECONDS - 1));
      const y = HEIGHT - 2 - (rate / most) * (HEIGHT - 4);
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    });
    const [first] = points;
    const area = first
      ? `M${first.split(',')[0]},${HEIGHT} L${points.join(' L')} L${WIDTH},${HEIGHT} Z`
      : '';
    return svg(
      'svg',
      {
        class: 'curve',
        viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
        width: WIDTH,
        height: HEIGHT,
        'aria-hidden': 'true',
      },
      svg('path', { class: 'area', d: area }),
      svg('polyline', { points: points.join(' ') }),
    );
  }
}

/** A figure with what it counts. */
export function figure(value: string, name: string, mood = ''): Child {
  return h('span', { class: `figure ${mood}` }, h('b', {}, value), ` ${name}`);
}
