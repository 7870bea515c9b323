export { runLab as faultLab } from './skbwhy.js';
