/**
 * What people say when they look for a model of a task. Authors tag what a model is ("speech to text"); who searches says what shall be done ("write down
 * what is said"). Documents are found by these words too where a tag, or the title, names the task. Pure.
 */
import { plain } from "./search-ranking.ts";

interface Task {
  /** tags and parts of titles that name it */
  names: string[];
  /** how people ask for it */
  phrases: string;
}

const TASKS: Task[] = [
  {
    names: ["speech to text", "speech recognition", "transcription", "asr", "subtitles", "dictation"],
    phrases:
      "Write down what people say. Transcribe a recording of an interview, a meeting, a lecture, a call or a podcast. Dictate by voice. Turn spoken words, talking and voice messages or memos into written text. Type up a conversation that was recorded. Minutes and notes from an audio file. Captions and subtitles for a video or film, with timestamps.",
  },
  {
    names: ["text to speech", "tts", "speech synthesis", "voice synthesis"],
    phrases:
      "Say or speak a text aloud with a voice. Read out an article, a book, a blog post, an email or a letter so that people can listen. An audio version of something written. Narrator, narration and voice-over for audiobooks, videos and explainers. Announcements and greetings for a phone menu. Give a computer, a robot or an assistant a voice. Speak a script.",
  },
  {
    names: ["upscaling", "super resolution", "upscaler", "image upscaling"],
    phrases:
      "Make a small picture bigger without blur. Enlarge, scale up or blow up a low-resolution photo, a thumbnail, a drawing or an old scan for print or a poster. Increase the resolution of an image, with more pixels and detail. Make a blurry, fuzzy or pixelated image sharp. Zoom in on a photo without losing quality.",
  },
  {
    names: ["video upscaling", "video super resolution", "video upscaler", "video enhancement"],
    phrases:
      "Make a video larger and sharper. Upscale an old, small or low-quality clip, film or movie to HD or 4K. Increase the resolution of footage for a big screen or television.",
  },
  {
    names: ["background removal", "remove background", "matting", "cutout"],
    phrases:
      "Cut out a person, an animal, an object or a product from a photo. Remove, erase or get rid of what is behind or around the subject. Make the background transparent or plain white. Isolated product shots for a shop. Separate foreground from background.",
  },
  {
    names: [
      "noise removal",
      "noise suppression",
      "denoising",
      "audio clean-up",
      "audio cleanup",
      "speech enhancement",
      "noise reduction",
      "audio enhancement",
    ],
    phrases:
      "Clean up a noisy recording. Remove background noise, hiss, hum, clicks, wind, fan, traffic or crowd from sound. Make the voice clear in a podcast, a phone call, an interview or a video. Improve bad audio from a poor microphone or an old tape.",
  },
  {
    names: ["ocr", "text recognition", "image to text", "document reading", "documents"],
    phrases:
      "Read the text in a picture. Get words, letters and numbers out of a scan, a screenshot or a photographed page. Extract the total from a receipt or an invoice. Digitise printed letters, forms and paper documents. Copy text from an image of a book or a sign.",
  },
  {
    names: ["embeddings", "sentence embeddings", "text embeddings", "sentence similarity", "semantic search"],
    phrases:
      "Turn sentences into vectors or numbers. Semantic search over notes, documents and questions. Measure how similar or related two texts or questions are. Find duplicates, near duplicates and tickets that say the same thing. Group, cluster and match reviews, headlines and texts by meaning. Find the best answer to a question among known ones. Recommend related articles.",
  },
  {
    names: ["text generation", "language model", "text completion", "completion"],
    phrases:
      "Continue or complete a text. Write a story, a poem or prose from its beginning. Finish a sentence or paragraph that somebody started. Autocomplete while writing. Predict the next words. Write more in the same style. Filler text and creative writing.",
  },
  {
    names: ["chat", "assistant", "instruction following", "chatbot"],
    phrases:
      "Talk with a chatbot. Ask questions and get answers. Follow instructions, brainstorm, explain and plan. Write emails and essays on request.",
  },
  {
    names: ["text to image", "image generation"],
    phrases:
      "Draw or paint a picture from words. Create an illustration, an artwork or a photo by describing it in a prompt. Imagine an image.",
  },
  {
    names: ["emoji", "icons", "stickers"],
    phrases:
      "Draw an emoji, a smiley or an icon from a few words. Create a small cartoon sticker by describing it. A tiny picture, symbol or illustration for a chat.",
  },
  {
    names: ["image editing", "image to image", "photo editing"],
    phrases: "Change, edit or retouch a photo. Add things to a picture.",
  },
  {
    names: ["inpainting"],
    phrases: "Remove or replace an object in a photo. Fill a hole in an image. Erase a stranger or a watermark.",
  },
  {
    names: ["colorization"],
    phrases: "Add colour to black-and-white photos.",
  },
  {
    names: ["restoration", "face restoration"],
    phrases: "Repair old, scratched, torn or faded family photos. Fix faces in old portraits.",
  },
  {
    names: ["style transfer"],
    phrases: "Make a photo look like a painting. Copy the style of an artist.",
  },
  {
    names: ["image captioning", "captioning"],
    phrases: "Describe what is in a picture. Alternative text for images.",
  },
  {
    names: ["visual question answering", "vision language"],
    phrases: "Ask questions about a picture.",
  },
  {
    names: ["object detection", "detection"],
    phrases: "Find and locate things in a picture with boxes. Count objects.",
  },
  {
    names: ["segmentation"],
    phrases: "Outline objects pixel by pixel. Masks of what is in an image.",
  },
  {
    names: ["depth estimation"],
    phrases: "How far away things are. Depth map from a photo.",
  },
  {
    names: ["pose estimation"],
    phrases: "Track body movement, joints and skeletons of people.",
  },
  {
    names: ["moderation"],
    phrases: "Detect unsafe, nude, hateful or abusive content. Filter comments or uploads.",
  },
  {
    names: ["translation"],
    phrases: "Translate a text from one language into another.",
  },
  {
    names: ["summarization"],
    phrases: "Make a long text short. Key points of a document. Abstract of a paper.",
  },
  {
    names: ["sentiment"],
    phrases: "Are customers happy or angry? Positive or negative opinions in reviews.",
  },
  {
    names: ["code"],
    phrases: "Write program code. Complete, explain or fix code.",
  },
  {
    names: ["text to music", "music generation"],
    phrases: "Compose a song or a tune from a description. Background music for a video.",
  },
  {
    names: ["source separation"],
    phrases: "Split a song into vocals and instruments. Karaoke without vocals.",
  },
  {
    names: ["diarization"],
    phrases: "Who is speaking when? Tell speakers apart.",
  },
  {
    names: ["voice conversion", "voice cloning"],
    phrases: "Copy somebody's voice. Sing or speak in another person's voice.",
  },
  {
    names: ["text to video", "video generation"],
    phrases: "Make a film or animation from words.",
  },
  {
    names: ["image to video", "animation"],
    phrases: "Bring a still photo to life. Animate a picture.",
  },
  {
    names: ["frame interpolation"],
    phrases: "Slow motion. Smoother video with more frames per second.",
  },
  {
    names: ["3d", "text to 3d"],
    phrases: "Make a 3D model for games or printing.",
  },
];

const PLAIN = TASKS.map(({ names, phrases }) => ({
  names: names.map(plain),
  phrases: phrases.split(/(?<=[.?]) /),
}));

/** Every phrase, with the task that it asks for: a task is its place in the list. */
export const TASK_PHRASES: readonly { task: number; text: string }[] = PLAIN.flatMap(({ phrases }, task) =>
  phrases.map((text) => ({ task, text })),
);

/** The tasks that a model's labels (tags, title) name. */
export function tasksOf(labels: string[]): number[] {
  const said = labels.map(plain);
  return PLAIN.flatMap(({ names }, task) =>
    names.some((name) => said.some((label) => label.includes(name))) ? [task] : [],
  );
}

/** All that people say who look for these tasks. */
export function phrasesOf(tasks: number[]): string {
  return tasks.flatMap((task) => PLAIN[task]?.phrases ?? []).join(" ");
}
