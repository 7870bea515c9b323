export { runLab } from './skbwhy.js';
