/** About 300 made-up models that a catalog could hold, of tasks that are near those of the examples and not theirs: what search has to tell them from. */
import type { SeedModel } from "../lib/seed-catalog.ts";

/** name, what it does, tags, more of it */
const KINDS: [string, string, string[], string][] = [
  [
    "melody",
    "Composes instrumental music from a description of mood and genre.",
    ["music", "text to music"],
    "Give it a mood, a tempo and a length; it gives a stereo track.",
  ],
  [
    "stems",
    "Separates a song into vocals, drums, bass and the rest.",
    ["music", "source separation"],
    "For remixes and karaoke. Each instrument comes as a track of its own.",
  ],
  [
    "voice-clone",
    "Clones a singer's voice from thirty seconds and changes one song into another voice.",
    ["voice conversion", "music"],
    "Upload a song and a sample of the target singer.",
  ],
  [
    "speaker-turns",
    "Tells who speaks when in a conversation, without writing down the words.",
    ["diarization", "audio"],
    "It gives segments labelled by speaker. It does not transcribe.",
  ],
  [
    "bird-song",
    "Names the bird species that sing in a field recording.",
    ["audio classification", "nature"],
    "Works on birds of Europe and North America.",
  ],
  [
    "sound-events",
    "Labels sound events such as sirens, barking and applause.",
    ["audio classification", "tagging"],
    "Sound tags with their times, for media libraries.",
  ],
  [
    "beat-tracker",
    "Finds the tempo and beats of a track.",
    ["music", "analysis"],
    "Beat times in seconds, for editing video to music.",
  ],
  [
    "foley",
    "Makes sound effects such as footsteps and rain from a description.",
    ["sound effects", "text to audio"],
    "Short effects for games and films.",
  ],
  [
    "photoreal",
    "Generates photorealistic images of people, places and products from long prompts.",
    ["text to image", "diffusion"],
    "Large diffusion model with camera and lens control.",
  ],
  [
    "landscape-painter",
    "Paints wide landscapes in oil from a prompt.",
    ["text to image", "art"],
    "Trained on public-domain paintings.",
  ],
  [
    "logo-maker",
    "Designs vector logos for companies from a name and a slogan.",
    ["design", "svg"],
    "Gives SVG files with editable shapes.",
  ],
  [
    "inpaint",
    "Fills a masked part of an image with something new.",
    ["inpainting", "image editing"],
    "Mask what shall be replaced and say what to put there.",
  ],
  [
    "outpaint",
    "Continues an image beyond its borders.",
    ["outpainting", "image editing"],
    "Changes the aspect ratio by inventing what lies outside.",
  ],
  [
    "colorize",
    "Colours black-and-white photographs.",
    ["colorization", "restoration"],
    "Plausible colours for historical pictures.",
  ],
  [
    "face-fix",
    "Repairs scratched and faded portraits of faces.",
    ["face restoration", "restoration"],
    "For family archives. Works on faces alone.",
  ],
  [
    "style-copy",
    "Repaints a photo in the style of a given painting.",
    ["style transfer", "art"],
    "One image gives the content, another the style.",
  ],
  [
    "depth",
    "Estimates how far each pixel of a scene is away.",
    ["depth estimation", "3d"],
    "Gives a depth map from a single picture.",
  ],
  [
    "pose",
    "Finds the joints of people in an image.",
    ["pose estimation", "keypoints"],
    "Seventeen keypoints a person, for fitness and games.",
  ],
  [
    "detector",
    "Draws boxes around objects of eighty classes.",
    ["object detection"],
    "Cars, animals, furniture and more, with scores.",
  ],
  ["crowd", "Counts people in pictures of crowds.", ["counting", "vision"], "A density map and a total."],
  [
    "plates",
    "Finds number plates of cars in traffic cameras.",
    ["detection", "traffic"],
    "Boxes of plates for blurring.",
  ],
  [
    "caption",
    "Describes what is in an image in one sentence.",
    ["image captioning", "vision language"],
    "For alternative texts of websites.",
  ],
  [
    "visual-questions",
    "Answers questions about a picture.",
    ["visual question answering", "vision language"],
    "Ask what colour, how many, where.",
  ],
  [
    "nsfw-check",
    "Tells whether an image is safe for work.",
    ["moderation", "classification"],
    "A score for each category of unsafe pictures.",
  ],
  ["age-guess", "Estimates ages from portraits.", ["faces", "regression"], "An age range for each face."],
  ["face-swap", "Puts one person's face on another's body.", ["faces", "editing"], "Needs consent of both."],
  ["try-on", "Shows a garment on a model.", ["fashion", "image editing"], "Upload a garment and a person."],
  [
    "room-designer",
    "Redecorates a photo of a room in another interior style.",
    ["interior design", "image editing"],
    "Scandinavian, industrial, Japanese.",
  ],
  [
    "satellite",
    "Finds buildings and roads in satellite images.",
    ["segmentation", "maps"],
    "Polygons for geographic systems.",
  ],
  ["cells", "Segments cells in microscope images.", ["segmentation", "medicine"], "One mask for each nucleus."],
  ["x-ray", "Marks findings in chest X-rays for research.", ["medicine", "classification"], "No medical device."],
  [
    "plants",
    "Names plants and their diseases from a leaf.",
    ["classification", "agriculture"],
    "Four hundred species.",
  ],
  [
    "text-to-video",
    "Makes short films from a prompt.",
    ["text to video", "diffusion"],
    "Five seconds at 24 frames a second.",
  ],
  [
    "animate",
    "Brings a still portrait to life, driven by a video of gestures.",
    ["image to video", "faces"],
    "Moves the head and the eyes.",
  ],
  ["lip-sync", "Fits the lips of a speaker to another sound track.", ["lip sync", "video"], "For dubbing films."],
  [
    "frame-rate",
    "Makes slow motion by inventing frames in between.",
    ["frame interpolation", "video"],
    "Doubles or quadruples frames a second.",
  ],
  ["scene-cuts", "Finds cuts between scenes of a film.", ["video", "analysis"], "Times of cuts, for editors."],
  ["stabilise", "Steadies shaky footage.", ["video", "stabilization"], "For cameras held in the hand."],
  ["mesh", "Builds a textured 3D model from a few views.", ["3d", "reconstruction"], "Gives GLB files for games."],
  [
    "translate-de",
    "Translates between German, French and Spanish.",
    ["translation", "text"],
    "Keeps formatting and names.",
  ],
  ["translate-ja", "Translates Japanese comics and novels.", ["translation", "text"], "Handles honorifics."],
  [
    "chat-large",
    "A chat assistant that follows instructions and answers questions about the world.",
    ["chat", "assistant"],
    "Seventy billion parameters; remembers the conversation.",
  ],
  [
    "coder",
    "Writes and explains program code in forty languages.",
    ["code", "assistant"],
    "Completes functions and writes tests.",
  ],
  ["summary", "Shortens long reports to a few bullet points.", ["summarization", "text"], "For contracts and papers."],
  [
    "sentiment",
    "Tells whether a comment is positive or negative.",
    ["classification", "sentiment"],
    "A label and a score.",
  ],
  [
    "names",
    "Finds names of people, places and companies in text.",
    ["named entities", "extraction"],
    "Spans with their types.",
  ],
  ["grammar", "Corrects spelling and grammar of essays.", ["correction", "text"], "Explains each change."],
  [
    "toxicity",
    "Flags insults and threats in comments.",
    ["moderation", "classification"],
    "Six categories with scores.",
  ],
  ["sql", "Writes SQL from questions about a database.", ["code", "database"], "Give it the schema and a question."],
  ["forecast", "Forecasts time series such as sales and load.", ["forecasting", "tabular"], "Quantiles for each step."],
  ["protein", "Predicts how a protein folds from its sequence.", ["biology", "3d"], "Gives PDB files with confidence."],
  ["molecule", "Predicts solubility of molecules.", ["chemistry", "regression"], "Takes SMILES strings."],
];

/** What tells the versions of one task apart. */
const VARIANTS: [string, string, string][] = [
  ["", "", ""],
  ["large", "Large", "The large one: slower, better."],
  ["fast", "Fast", "Distilled to answer in a fraction of the time."],
  ["v2", "v2", "Second version, trained on more data."],
  ["mobile", "Mobile", "Small enough for a phone."],
  ["pro", "Pro", "With more controls for professionals."],
];

const OWNERS = ["lumen-lab", "northwind", "quiet-river", "atlas-research", "tinkerer", "open-atelier"];

/** The same list each time. */
export function distractors(): SeedModel[] {
  return KINDS.flatMap(([base, description, tags, more], k) =>
    VARIANTS.map(([suffix, label, remark], v): SeedModel => {
      const name = suffix === "" ? base : `${base}-${suffix}`;
      const title = `${base.charAt(0).toUpperCase()}${base.slice(1).replaceAll("-", " ")}${label === "" ? "" : ` ${label}`}`;
      return {
        owner: OWNERS[(k + v) % OWNERS.length] ?? "lumen-lab",
        name,
        title,
        description: `${description}${remark === "" ? "" : ` ${remark}`}`,
        tags,
        readme: `# ${title}\n\n${description} ${more} ${remark}\n\n## Inputs\n\nSee the schema.\n`,
      };
    }),
  );
}
