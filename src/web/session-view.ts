import { count } from '../explain/wording.js';
import type { SessionHeader } from '../session/session.js';
import { h, localTime, prose, type Child } from './dom.js';

/** What is watched, and what is not. */
export function sessionView(header: SessionHeader, server: string): Child[] {
  const { kernel, plan } = header;
  const missing = plan.filter(({ mechanism }) => mechanism === null);
  const pair = (name: string, value: string): HTMLElement =>
    h('div', {}, h('dt', {}, name), h('dd', {}, value));
  return [
    h(
      'details',
      { 'data-key': 'session' },
      h(
        'summary',
        {},
        'What is watched',
        missing.length > 0 &&
          h('span', { class: 'hint' }, `, and ${count(missing.length, 'point')} not`),
      ),
      h(
        'dl',
        { class: 'pairs' },
        pair('node', header.node),
        pair('kernel', `${kernel.release} (${kernel.machine})`),
        pair('session', `${header.id}, since ${localTime(header.startedAt)}`),
        pair('namespaces', header.netns?.join(', ') ?? 'every one that can be found'),
        pair('filter', header.filter ?? 'none'),
        pair('served by', `skbwhy ${server}`),
      ),
      h('h2', {}, 'Observation points'),
      h(
        'ul',
        { class: 'points' },
        ...plan.map(({ point, mechanism, where, reason }) =>
          h(
            'li',
            { class: mechanism === null ? 'missing' : null },
            h('b', {}, point),
            mechanism === null ? ' not attached' : ` ${mechanism}`,
            h('small', {}, ...prose(mechanism === null ? (reason ?? '') : where)),
            mechanism !== null && reason !== undefined && h('small', {}, ...prose(reason)),
          ),
        ),
      ),
    ),
  ];
}
