/**
 * The collections that every installation knows. One is made when the first model that names it is announced (`collections` in cogway.yaml); from then on
 * it is the operator's, who may change it and make others (`/admin/v1/collections`).
 */
export const STANDARD_COLLECTIONS = [
  {
    slug: "text-generation",
    name: "Text generation",
    description: "Language models that write and continue text",
  },
  {
    slug: "image-generation",
    name: "Image generation",
    description: "Make pictures from words",
  },
  {
    slug: "image-editing",
    name: "Image editing",
    description: "Change pictures: backgrounds, styles, parts",
  },
  {
    slug: "image-upscaling",
    name: "Image upscaling",
    description: "Make pictures larger and sharper",
  },
  {
    slug: "speech-to-text",
    name: "Speech to text",
    description: "Write down what is said",
  },
  {
    slug: "text-to-speech",
    name: "Text to speech",
    description: "Read text aloud",
  },
  {
    slug: "audio-cleanup",
    name: "Audio clean-up",
    description: "Take noise and echo out of recordings",
  },
  {
    slug: "video-upscaling",
    name: "Video upscaling",
    description: "Make videos larger and sharper",
  },
  {
    slug: "embeddings",
    name: "Embeddings",
    description: "Turn text and pictures into numbers that lie close together when the meanings do",
  },
  {
    slug: "ocr",
    name: "OCR",
    description: "Read the text in pictures and scans",
  },
] as const;
