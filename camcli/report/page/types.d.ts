// The shapes of the data that Python writes into the pages, and the elements of the pages that the scripts use.
// Only the type checker reads this file (tests/javascript); no page loads it.

/** A number out of a table; null where the table has none, or none that is finite. */
type Cell = number | null;

/** A text of the page, by its place in `words`: `Words` in report/data.py. */
type WordNumber = number;

// --- report.html: `Gathered.as_json` in report/data.py, which `_data_files` in report/write.py writes to report/rows.js

interface ReportData {
  words: string[];
  images: ImageColumns;
  rows: RowColumns;
  /** For each metric of the run its value for each row: `_add_row` in report/data.py. */
  metrics: Record<string, Cell[]>;
  failures: FailureColumns;
  /** The row with which each chunk of raw maps begins (`MapChunks.starts` in report/maps.py); null without --save-maps. */
  maps: number[] | null;
  /** URLs of the folder of the originals, the best first, each with a slash at its end: `folder_urls` in report/scripts.py. */
  originals: string[];
  settings: PageSettings;
  preprocess: InputShape | null;
}

/** One value for each image: `_add_image` in report/data.py. */
interface ImageColumns {
  name: string[];
  /** The URL of the image in its folder; 0 where it is the same as the name. */
  url: (string | 0)[];
  /** What a browser can do with the original: SHOWABLE, GONE, NOT_SHOWABLE. */
  original: (0 | 1 | 2)[];
  /** null for a failure */
  predicted: (WordNumber | null)[];
  confidence: Cell[];
  label: (WordNumber | null)[];
  correct: (0 | 1 | null)[];
}

/** One value for each row of predictions.csv, which is one for each map: `_add_row` and `_add_map` in report/data.py. */
interface RowColumns {
  /** Number of the image. */
  image: number[];
  class_name: WordNumber[];
  layer: WordNumber[];
  method: WordNumber[];
  status: WordNumber[];
  rank: Cell[];
  class_index: Cell[];
  logit: Cell[];
  probability: Cell[];
  peak: Cell[];
  box_x: Cell[];
  box_y: Cell[];
  box_w: Cell[];
  box_h: Cell[];
  /** The end of the overlay's URL, or all of it after a slash, or "" where nothing is painted: `_overlay_url`. */
  overlay: string[];
  entropy: Cell[];
  border: Cell[];
}

/** One value for each row of failures.csv: `gather` in report/data.py. */
interface FailureColumns {
  /** Number of the image. */
  image: number[];
  stage: string[];
  error: string[];
}

/** `_page_settings` in report/data.py; null for a setting that is damaged. */
interface PageSettings {
  fit: "crop" | "squash" | "pad" | null;
  style: "overlay" | "heatmap" | "side-by-side" | "contour" | "spotlight" | null;
  legend: boolean;
  caption: boolean;
  "max-side": Cell;
}

/** `_input_shape` in report/data.py; sizes are [height, width]. */
interface InputShape {
  contains: boolean;
  resize_to: [number, number];
  crop: [number, number];
}

/** A raw map as height, width and base64 of little-endian floats, or null: `MapChunks.add` in report/maps.py. */
type StoredMap = [number, number, string] | null;

interface Window {
  /** undefined where report/rows.js is not beside the page */
  camcliData?: ReportData;
  camcliClusters?: ClusterData;
  camcliTests?: Record<string, ClusterTest>;
}

// --- diff.html: `diff_html` and `_columns` in the module of report/ that writes the page of camcli diff

/** Two values, of the first run and of the second. */
type Both<T> = [T, T];

/** The lists by image are in the order of camcli diff: the largest change first. */
interface DiffData {
  runs: Both<string>;
  /** URLs of the two folders, each with a slash at its end. */
  urls: Both<string>;
  agreement: number;
  /** Median correlation of the maps; null where there are none to compare. */
  correlation: number | null;
  /** Number of images that only this run has. */
  only: Both<number>;
  words: string[];
  names: string[];
  correlations: Cell[];
  overlaps: Cell[];
  predicted: Both<WordNumber[]>;
  explained: Both<WordNumber[]>;
  probabilities: Both<Cell[]>;
  /** URLs in the run's folder; "" where there is no such file. */
  overlays: Both<string[]>;
  thumbs: Both<string[]>;
}

declare var camcliChanges: DiffData;

// --- elements by id; PageElements, in state.js and in diff.js, is the page that a script is checked for

interface SharedElements extends ListElements {
  search: HTMLInputElement;
  direction: HTMLButtonElement;
  histogram: HTMLDivElement;
}

interface ListElements {
  summary: HTMLElement;
  sort: HTMLSelectElement;
  reset: HTMLButtonElement;
  count: HTMLOutputElement;
  panel: HTMLDetailsElement;
  grid: HTMLDivElement;
  rest: HTMLParagraphElement;
  nothing: HTMLParagraphElement;
  "reset-too": HTMLButtonElement;
  view: HTMLDialogElement;
  "view-title": HTMLHeadingElement;
  previous: HTMLButtonElement;
  place: HTMLSpanElement;
  next: HTMLButtonElement;
  close: HTMLButtonElement;
  frame: HTMLDivElement;
  easel: HTMLDivElement;
  "picture-note": HTMLParagraphElement;
  facts: HTMLDListElement;
}

interface ReportElements extends SharedElements {
  "single-box": HTMLLabelElement;
  single: HTMLInputElement;
  broken: HTMLParagraphElement;
  predicted: HTMLInputElement;
  "predicted-list": HTMLDataListElement;
  explained: HTMLInputElement;
  "explained-list": HTMLDataListElement;
  label: HTMLInputElement;
  "label-list": HTMLDataListElement;
  right: HTMLSelectElement;
  layer: HTMLSelectElement;
  method: HTMLSelectElement;
  low: HTMLInputElement;
  high: HTMLInputElement;
  statuses: HTMLFieldSetElement;
  stage: HTMLSelectElement;
  "statistics-note": HTMLParagraphElement;
  metric: HTMLSelectElement;
  least: HTMLInputElement;
  most: HTMLInputElement;
  metrics: HTMLDivElement;
  classes: HTMLDivElement;
  confusion: HTMLDivElement;
  original: HTMLImageElement;
  overlay: HTMLImageElement;
  cell: HTMLDivElement;
  opacity: HTMLInputElement;
  value: HTMLOutputElement;
  "others-title": HTMLHeadingElement;
  others: HTMLDivElement;
}

interface DiffElements extends SharedElements {
  flips: HTMLInputElement;
  pairs: HTMLDivElement;
  "no-maps": HTMLParagraphElement;
  first: HTMLImageElement;
  second: HTMLImageElement;
  "to-first": HTMLButtonElement;
  fade: HTMLInputElement;
  "to-second": HTMLButtonElement;
}

interface ClusterElements extends ListElements {
  class: HTMLSelectElement;
  "class-before": HTMLButtonElement;
  "class-after": HTMLButtonElement;
  group: HTMLSelectElement;
  broken: HTMLParagraphElement;
  "scatter-box": HTMLDivElement;
  scatter: HTMLCanvasElement;
  pointed: HTMLParagraphElement;
  legend: HTMLDivElement;
  "components-box": HTMLElement;
  components: HTMLDivElement;
  groups: HTMLDivElement;
  "grid-title": HTMLHeadingElement;
  first: HTMLImageElement;
}

interface ClusterChannel {
  channel: number;
  difference: number;
  inside: number;
  outside: number;
  images: number[];
}

interface ClusterGroup {
  group: number;
  images: number;
  share: number;
  silhouette: number;
  accuracy: number | null;
  accuracy_outside: number | null;
  confidence: number;
  confidence_outside: number | null;
  suspicion: number;
  suspected: boolean;
  flags: [words: string, figures: string][];
  map: number[][] | null;
  typical: number[];
  untypical: number[];
  channels: ClusterChannel[];
}

interface ClusterClass {
  name: string;
  images: number;
  first: number;
  end: number;
  dense: boolean;
  map: number[][] | null;
  components: { share: number; low: number[]; high: number[] }[];
  groups: ClusterGroup[];
}

interface ClusterData {
  by: string;
  evidence: "both" | "what" | "where";
  layer: string;
  method: string;
  small: number;
  damaged: number;
  runs: { name: string; url: string; original: string; report: boolean; images: number }[];
  words: string[];
  images: ClusterImages;
  classes: ClusterClass[];
}

interface ClusterImages {
  name: string[];
  run: number[];
  class: number[];
  group: number[];
  x: number[];
  y: number[];
  p: number[];
  correct: (0 | 1 | null)[];
  predicted: number[];
  overlay: string[];
  thumb: string[];
  place: number[];
}

interface ClusterTest {
  confirmed: boolean;
  verdict: string;
  rows: { what: string; images: number; before: number | null; after: number | null; fall: number | null; from: number | null; to: number | null }[];
}
