import type { Fault } from '../fault.js';
import { resolverSearch } from './diagnosis.js';
import { exposure } from './exposure.js';
import { lab } from './lab.js';

export const fault: Fault = {
  verdict: 'resolver-search',
  title:
    'no packet was lost, the lookup was slow all the same. Forms: `search-list` (names that do not exist were tried first), `truncation` (asked again over TCP), `dead-name-server` (waited for one that never answers)',
  diagnoser: resolverSearch,
  exposure,
  lab,
};
