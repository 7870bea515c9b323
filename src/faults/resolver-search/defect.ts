export type Defect = 'search-list' | 'truncation' | 'dead-name-server';
