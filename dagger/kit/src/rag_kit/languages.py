"""The languages whose words are known, and the words that ask and connect where no library lists them."""

from __future__ import annotations

# ISO 639-1 code of a language -> its name. Snowball stems those of `Stemmer.algorithms()`.
LANGUAGES = {
    "ar": "arabic", "bg": "bulgarian", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german",
    "el": "greek", "en": "english", "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian",
    "fi": "finnish", "fr": "french", "he": "hebrew", "hi": "hindi", "hu": "hungarian",
    "hy": "armenian", "id": "indonesian", "it": "italian", "ja": "japanese", "km": "khmer",
    "ko": "korean", "lo": "lao", "lt": "lithuanian", "my": "burmese", "ne": "nepali", "nl": "dutch",
    "no": "norwegian", "pl": "polish", "pt": "portuguese", "ro": "romanian", "ru": "russian",
    "sk": "slovak", "sr": "serbian", "sv": "swedish", "ta": "tamil", "th": "thai", "tr": "turkish",
    "uk": "ukrainian", "vi": "vietnamese", "zh": "chinese",
}  # fmt: skip
ENGLISH = "english"
COMPOUNDING = frozenset(
    {"danish", "dutch", "estonian", "finnish", "german", "hungarian", "norwegian", "swedish"}
)

# Words that ask and connect, by language of a script without spaces between words.
UNSPACED_STOPS = {
    "chinese": """
        什么 什麼 多少 多久 多长 多大 多远 几个 几天 几次 几 哪里 哪儿 哪些 哪个 哪 谁 怎么样 怎么
        怎样 如何 为什么 何时 请问 可以 能否 是否 需要 应该 的 了 吗 呢 吧
        是 在 有 我们 我 你们 你 您 他们 他 她 它 和 与 或 及 这 那 个 要 会 被 把 对 从 到 于 时候
        什么时候 ？ 多少钱
    """,
    "japanese": """
        ください でしょうか ですか ますか ました ません です ます でした だった である とする したい
        したら する した して します いつまで いつから いつ どこ だれ 誰 なに なん
        何 どの どれ どう どのくらい どうやって どのように いくら いくつ なぜ ありますか あります
        ある いる こと もの ため まで から より など または および それ これ この
        その は が を に で の と も か へ や ね よ
    """,
    "korean": """
        무엇 무슨 뭐 언제 어디 누구 누가 어떻게 어떤 어느 왜 얼마나 얼마 몇 며칠 있습니까 있나요
        있는 있다 합니까 하나요 됩니까 되나요 입니까 인가요 저는 제가 나는 내가
        우리 그 이 저 및 또는 그리고
    """,
    "thai": """
        อะไร เท่าไร เท่าไหร่ กี่ เมื่อไร เมื่อไหร่ เมื่อใด ที่ไหน ที่ใด ใคร อย่างไร ยังไง ทำไม ไหน ใด
        หรือไม่ หรือ ไหม มั้ย คือ เป็น ของ และ ใน ที่ ได้ ต้อง จะ ให้ กับ จาก ถึง มี ว่า นี้ นั้น ครับ
        ค่ะ คะ ฉัน ผม เรา เขา อยู่ กัน นาน
    """,
}

# Question and function words, which do not tell a passage's topic; `stop-words` counts `fire`, `computer` and
# a thousand more as such.
ENGLISH_STOPS = """
a about above after again all also am an and any are as at be because been before being below
between both but by can could did do does doing done down during each few for from further get gets
getting got had happen happened happens has have having he her here hers him his how i if in into is
it its itself just let ll like made make makes many may me mean means might more most much must my
no nor not now of off on once only or other our out over own please re s same say says shall she
should so some such t take taken takes tell than that the their them then there these they this
those through to too under until up us use used ve very was we were what when where which while who
whom whose why will with would you your
"""

# Words of a question that `stop-words` lacks.
QUESTION_WORDS = {
    "german": """
        wieviel wieviele viele lange oft hoch weit groß wofür womit wohin woher welchen gibt beträgt
        darf
    """,
    "french": """
        combien quel quelle quels quelles quand où qui quoi comment pourquoi est-ce faut il y a-t t
    """,
    "spanish": """
        cuánto cuánta cuántos cuántas cuál cuáles cuándo dónde quién quiénes cómo qué por hay debe tengo
        tiene
    """,
    "portuguese": """
        quanto quanta quantos quantas qual quais quando onde quem como que por posso tenho tem há deve
    """,
    "italian": """
        quanto quanta quanti quante quale quali quando dove chi come cosa perché ho ha devo deve c'è
    """,
    "dutch": """
        hoeveel hoe lang vaak welke welk wanneer waar wie wat waarom moet mag heb heeft
    """,
    "swedish": """
        hur många mycket länge ofta vilken vilket vilka när var vem vad varför måste får har
    """,
    "danish": """
        hvor mange meget længe ofte hvilken hvilket hvilke hvornår hvem hvad hvorfor skal må har
    """,
    "norwegian": """
        hvor mange mye lenge ofte hvilken hvilket hvilke når hvem hva hvorfor skal må har
    """,
    "polish": """
        ile jak długo często który która które jaki jaka jakie kiedy gdzie kto co dlaczego czy trzeba
        mam ma
    """,
    "czech": """
        kolik jak dlouho často který která které jaký jaká jaké kdy kde kdo co proč je se musí mám má
    """,
    "russian": """
        сколько как долго часто какой какая какое какие когда где куда кто что почему нужно должен ли у
        меня
    """,
    "ukrainian": """
        скільки як довго часто який яка яке які коли де куди хто що чому треба чи є
    """,
    "turkish": """
        kaç ne kadar nasıl nerede nereye hangi kim kimin zaman niçin neden mı mi mu mü var var mıdır
        nedir dır dir için ve ile bir bu şu o da de çok olarak olan her gibi daha en
    """,
    "greek": """
        πόσο πόσα πόσες πόσοι πόσος πόση ποιος ποια ποιο ποιοι ποιες πότε πού που πώς τι γιατί είναι έχω
        έχει πρέπει ο η το οι τα του της των τον την τους τις στο στη στην στον στα και ή για με από σε
        θα να δεν
    """,
    "hindi": """
        कितना कितने कितनी कौन क्या कब कहाँ कहां कैसे क्यों किस किसे कौन-सा है हैं हो होता होती होते था
        थी थे मुझे मेरा मेरी मेरे लिए में से को का की के पर और या तक
    """,
    "arabic": """
        كم ما ماذا متى أين من كيف لماذا هل أي هي هو التي الذي في على إلى عن مع أو و ثم قبل بعد
    """,
    "hebrew": """
        כמה מה מתי איפה היכן מי איך מדוע למה האם איזה איזו אילו יש של את על אל עם זה זו הוא היא אני לי
        עד או ו
    """,
    "hungarian": """
        mennyi hány meddig milyen melyik mikor hol hová ki mi hogyan miért kell van
    """,
    "finnish": """
        kuinka monta paljon kauan usein mikä mitkä milloin missä minne kuka mitä miten miksi pitää on
        saa
    """,
    "romanian": """
        cât câtă câți câte care când unde cine ce cum de trebuie am are este
    """,
    "indonesian": """
        berapa lama banyak sering apa siapa kapan dimana mana bagaimana mengapa kenapa apakah harus
    """,
    "vietnamese": """
        bao nhiêu lâu mấy gì nào ai khi đâu ở thế sao tại có là của và được cho các những tôi phải không
    """,
    "persian": """
        چند چقدر چه کی کجا چگونه چرا آیا کدام است هست در از به با برای که را و یا تا
    """,
    "bulgarian": """
        колко как дълго често кой коя кое кои кога къде защо какво какъв трябва ли е са
    """,
    "slovak": """
        koľko ako dlho často ktorý ktorá ktoré aký aká aké kedy kde kto čo prečo je sa musí mám má
    """,
}
