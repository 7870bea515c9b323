/**
 * Elements by hand. Everything that is shown becomes a text node or an attribute's value, so that
 * what comes over the wire stays text, whatever it looks like.
 */
export type Child = Node | string | null | false | undefined;

type Handler = (event: Event) => void;
type Attributes = Readonly<Record<string, string | number | boolean | null | Handler>>;

const SVG = 'http://www.w3.org/2000/svg';

/**
 * An HTML element. An attribute that is null or false is left out, true is empty; a function is
 * what happens on the event of that name.
 */
export function h<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[Tag] {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element, as h(). */
export function svg<Tag extends keyof SVGElementTagNameMap>(
  tag: Tag,
  attributes: Attributes = {},
  ...children: Child[]
): SVGElementTagNameMap[Tag] {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill<E extends Element>(element: E, attributes: Attributes, children: Child[]): E {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (value !== null && value !== false)
      element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...present(children));
  return element;
}

/**
 * Puts other content into an element; who was at a control with a `data-key` stays at it, and what
 * was opened stays open.
 */
export function refill(element: Element, ...children: Child[]): void {
  const at = element.contains(document.activeElement)
    ? ((document.activeElement as HTMLElement).dataset['key'] ?? null)
    : null;
  const opened = [...element.querySelectorAll<HTMLElement>('details[open][data-key]')].map(
    (each) => each.dataset['key'],
  );
  element.replaceChildren(...present(children));
  for (const each of element.querySelectorAll<HTMLDetailsElement>('details[data-key]'))
    if (opened.includes(each.dataset['key'])) each.open = true;
  if (at !== null) find(element, at)?.focus({ preventScroll: true });
}

function find(element: Element, key: string): HTMLElement | undefined {
  return [...element.querySelectorAll<HTMLElement>('[data-key]')].find(
    (each) => each.dataset['key'] === key,
  );
}

/** The element of the page with that id. */
export function byId(id: string): HTMLElement {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element;
}

/** Figures, addresses, names of kernel functions and files. */
const CODE =
  /((?<=\()-A [^()]+(?=\))|0x[0-9a-f]+|(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?(?:\/\d+)?|\[?[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){3,7}\]?(?::\d+)?|\b[a-z]\w*_\w+(?:\+0x[0-9a-f]+)?(?:=\d+)?|\bCHECKSUM_[A-Z]+|\b[A-Z]+_[A-Z_]+)/g;

/** A sentence whose figures, addresses and kernel names are set as code. */
export function prose(text: string): (Node | string)[] {
  return text.split(CODE).map((part, i) => (i % 2 === 1 ? h('code', {}, part) : together(part)));
}

/** A figure and its unit stay on one line. */
export function together(text: string): string {
  return text.replace(/(\d) (ms|s)\b/g, '$1\u00a0$2');
}

/** A moment (ISO 8601) by the reader's clock. */
export function localTime(iso: string): string {
  return new Date(iso).toLocaleString(undefined, {
    dateStyle: 'medium',
    timeStyle: 'medium',
    hourCycle: 'h23',
  });
}

function present(children: Child[]): (Node | string)[] {
  return children.filter((child) => child !== null && child !== false && child !== undefined);
}
