/** The browser's Buffer, which the bundler puts wherever the decoders name it. */
export { Buffer } from 'buffer';
